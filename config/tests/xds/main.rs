//! The wire: what is written is read back, what Leno lacks is refused by name, and no bytes do harm.

mod accepted;
mod envoy;
mod garbage;
mod messages;
mod refusals;
mod round_trip;
mod strategies;
