//! Kubernetes, without a cluster: an API server of the harness, or a real one (`LENO_TEST_CLUSTER=1`).

mod admission;
mod anywhere;
mod bookinfo;
mod definitions;
mod injecting;
mod installed;
mod kubelet;
mod objects;
mod outages;
mod permissions;
mod python;
mod recorded;
mod refusing;
mod replica;
mod replicas;
mod serving;
mod validated;
mod watches;
