//! What policies decide, through the functions that the request path calls.

mod authorization;
mod issuer;
mod jwt;
mod naive;
mod property;
mod support;
