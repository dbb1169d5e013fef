//! `k3s agent`: fetch certificates with the token, balance to the servers, register, beat.

pub mod balancer; // 127.0.0.1:6444 to a healthy server
pub mod run; // the start itself
