//! Traces: which requests are told of as spans, and what the next one is told of its trace.
//!
//! * [`context`]: the headers, in all their formats; [`id`]: the ids in them.

pub mod context;
pub mod id;
