//! A runner's day against the local stack, with a stand-in for the harness: whatever happens, each job ends
//! once, nothing is lost, and no process is left behind.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod commands;
mod crash;
mod day;
mod leftovers;
mod network;
mod stopping;
