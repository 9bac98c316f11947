//! What is done to a request besides sending it on, one file per policy.
//!
//! * [`authorization`]: who may do what.
//! * [`jwt`]: the tokens of end users.
//! * [`enforce`]: both at work on requests and connections.
//! * [`grant`]: a request that was let in, until it may no longer go on.
//! * [`cors`]: pages of other origins.
//! * [`fault`]: waits and failures on purpose.
//! * [`mirror`]: copies of requests.
//! * [`sticky`]: with which endpoint a caller stays.
//! * [`rate_limit`]: how often one may ask.

#[cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
pub mod authorization;
pub mod cors;
pub mod enforce;
pub mod fault;
pub mod grant;
#[cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
pub mod jwt;
pub mod mirror;
pub mod rate_limit;
pub mod sticky;
