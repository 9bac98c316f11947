//! stub
pub mod rule_files;
