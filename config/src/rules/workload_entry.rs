//! `WorkloadEntry`: one instance of a workload that no orchestrator knows. The same message is an endpoint of a
//! ServiceEntry.
//!
//! Fields and names are those of Istio's `networking/v1alpha3/workload_entry.proto`.

use std::collections::BTreeMap;

use super::common::message;

message! {
    /// One instance of a workload.
    pub struct WorkloadEntry {
        /// An address, a name (for `DNS`), or `unix:///path`.
        pub address: Option<String>,
        /// Name of a service's port to the number here.
        pub ports: BTreeMap<String, u32>,
        /// What selectors and subsets look at.
        pub labels: BTreeMap<String, String>,
        /// Endpoints of one network reach each other.
        pub network: Option<String>,
        /// `region/zone/subzone`
        pub locality: Option<String>,
        /// Share; absent: 1.
        pub weight: Option<u32>,
        /// Its identity.
        pub service_account: Option<String>,
    }
}
