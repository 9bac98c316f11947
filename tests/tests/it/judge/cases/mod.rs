//! The tables. The comment of a case says where its rule is written.

mod failures;
mod limits;
mod policies;
mod retries;
mod routing;
mod timeouts;

use super::case::Case;

/// All cases.
pub(super) fn all() -> Vec<Case> {
    [failures::cases(), routing::cases(), retries::cases(), timeouts::cases(), limits::cases(), policies::cases()]
        .concat()
}
