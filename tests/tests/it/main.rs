//! The end-to-end suites.
