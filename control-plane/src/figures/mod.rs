//! What the proxies count, gathered: `GET /figures`, on which `leno stat`, `leno edges` and `leno routes` stand. No
//! Prometheus is needed for it, and none is replaced: there are ten minutes, and no more than is asked for.
//!
//! Counters of a proxy only grow, so a rate takes two looks. Asking all proxies all the time would cost a large mesh
//! something for nobody's benefit, and asking only when a person asks would make the person wait. So there are two paces
//! ([`gather`]): once a minute as long as nobody is interested, and every ten seconds for five minutes after somebody was.
//! Whoever asks has all proxies asked once more at that moment, so that an answer ends *now*; it begins at the newest look
//! that is old enough, and says how long it really covers. At 1 000 proxies the slow pace is 17 questions a second, each of
//! a few kilobytes.
//!
//! * [`history`]: one proxy: what was added in each step of the last ten minutes, whatever restarts and rows that come
//!   and go do to its counters.
//! * [`gather`]: asking the proxies.
//! * [`view`]: all of it added up by who talks to whom; what `/figures` answers.

pub(crate) mod counters;
pub(crate) mod gather;
pub(crate) mod history;
pub(crate) mod view;
