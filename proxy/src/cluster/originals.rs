//! The endpoints of a cluster without a list: wherever captured connections were going.
//!
//! Per worker, and only what is in use: an endpoint is made when a connection to it is wanted, shared by those who call it
//! at the same time, and forgotten within a second after the last of them. So a scanner that calls a thousand addresses
//! leaves nothing behind, and nothing needs to be learnt about an address that nobody chose to balance over.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::EndpointState;

/// Endpoints that are remembered at a time; further ones are counted by themselves.
const MOST: usize = 4096;

/// What one worker knows of them.
#[derive(Debug, Default)]
pub struct Originals(RefCell<HashMap<SocketAddr, Arc<EndpointState>, foldhash::fast::RandomState>>);

impl Originals {
    /// The endpoint at an address.
    pub fn endpoint(&self, address: SocketAddr) -> Arc<EndpointState> {
        let mut all = self.0.borrow_mut();
        if let Some(endpoint) = all.get(&address) {
            return Arc::clone(endpoint);
        }
        let new = Arc::new(EndpointState::new(address));
        if all.len() < MOST {
            all.insert(address, Arc::clone(&new));
        }
        new
    }

    /// Forgets those that nobody calls.
    pub fn forget_unused(&self) {
        self.0.borrow_mut().retain(|_, endpoint| Arc::strong_count(endpoint) > 1);
    }

    /// How many are known.
    pub fn len(&self) -> usize {
        self.0.borrow().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    #[test]
    fn an_endpoint_is_one_for_all_who_call_it_and_forgotten_after_them() {
        let originals = Originals::default();
        let (one, again, other) =
            (originals.endpoint(address(80)), originals.endpoint(address(80)), originals.endpoint(address(81)));
        assert!(Arc::ptr_eq(&one, &again) && !Arc::ptr_eq(&one, &other));
        let in_flight = one.begin();
        drop((one, again, other));
        originals.forget_unused();
        assert_eq!((originals.len(), originals.endpoint(address(80)).active()), (1, 1));
        drop(in_flight);
        originals.forget_unused();
        assert!(originals.is_empty());
    }

    #[test]
    fn there_is_a_bound_and_beyond_it_calls_are_made_all_the_same() {
        let originals = Originals::default();
        let held: Vec<_> =
            (0..=u16::try_from(MOST).expect("small")).map(|port| originals.endpoint(address(port))).collect();
        assert_eq!((originals.len(), held.len()), (MOST, MOST + 1));
        drop(held);
        originals.forget_unused();
        assert!(originals.is_empty());
    }
}
