//! Plays API Gateway on loopback: routes from `template.yaml`, IAM as SigV4, requests as payload format 2.0
//! events.

pub mod event;
pub mod gateway;
pub mod route;
pub mod template;

pub use bakeoff_sigv4 as sigv4;
pub use gateway::ApiGateway;
