//! The commands, one file each.

pub(crate) mod agent;
mod ask;
mod authority;
mod breakers;
pub(crate) mod bug_report;
pub(crate) mod ca;
pub(crate) mod check;
pub(crate) mod completion;
pub(crate) mod config;
pub(crate) mod demo;
pub(crate) mod echo;
pub(crate) mod edges;
pub(crate) mod explain;
pub(crate) mod failure;
pub(crate) mod inject;
pub(crate) mod install;
pub(crate) mod logs;
pub(crate) mod man;
mod mesh_view;
mod output;
mod proxy_client;
mod replica;
pub(crate) mod routes;
pub(crate) mod schema;
pub(crate) mod serve;
pub(crate) mod stat;
pub(crate) mod status;
mod table;
pub(crate) mod tap;
pub(crate) mod token;
pub(crate) mod top;
pub(crate) mod uninject;
pub(crate) mod validate;
pub(crate) mod version;

pub(crate) use output::Output;
