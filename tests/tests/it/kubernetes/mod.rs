//! Kubernetes, without a cluster: an API server of the harness, or a real one (`LENO_TEST_CLUSTER=1`).

mod admission;
mod objects;
mod python;
mod recorded;
mod replicas;
mod watches;
