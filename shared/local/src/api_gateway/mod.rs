//! Plays API Gateway on loopback: routes from `template.yaml`, IAM as SigV4, requests as payload format 2.0 events.

pub mod event;
pub mod gateway;
pub mod route;
pub mod sigv4;
pub mod template;

pub use gateway::ApiGateway;
