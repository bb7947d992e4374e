//! Two operations on one row, stepped through each other in every order; what they come to must be what the model
//! says of one after the other.

mod cursors;
mod model;
mod pairs;
mod scene;
mod siblings;
mod stage;
