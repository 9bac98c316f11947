//! `RateLimit` (`leno.mesh/v1alpha1`): how often a workload may be asked. Istio has no kind for it: there one writes an
//! EnvoyFilter.

use std::collections::BTreeMap;

use super::common::message;
use super::{DurationText, LabelSelector, StringMatch};

message! {
    /// How often workloads may be asked. Each instance counts for itself.
    pub struct RateLimit {
        /// Which workloads of the namespace; absent or empty: all of them, in the root namespace all of the mesh.
        pub selector: Option<LabelSelector>,
        /// A request passes when every limit that is about it has room.
        pub limits: Vec<Limit>,
    }

    /// So many requests in so much time.
    pub struct Limit {
        /// So many.
        pub requests: Option<u32>,
        /// In this time.
        pub per: Option<DurationText>,
        /// So many more at once, when there were few before.
        pub burst: Option<u32>,
        /// Only these requests; absent: all.
        pub r#match: Option<LimitMatch>,
        /// Counted apart by this; absent: all together.
        pub by: Option<LimitBy>,
    }

    /// Which requests; all conditions hold.
    pub struct LimitMatch {
        /// On the path, without its query.
        pub path: Option<StringMatch>,
        /// On the method.
        pub method: Option<StringMatch>,
        /// On headers; `{}`: that it is there.
        pub headers: BTreeMap<String, StringMatch>,
    }

    /// What tells the requests of a limit apart.
    pub struct LimitBy {
        /// The values of this header. Requests without it are not limited.
        pub header: Option<String>,
    }
}
