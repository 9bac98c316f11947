//! What the figures of a proxy say, against what the client did: names alone are looked at in [`crate::dashboards`], and
//! those of limits, retries and ejections under our own names in [`crate::breaking`].

mod buckets;
mod envoy;
mod own;
