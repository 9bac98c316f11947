//! What may become of a request, and what each of those who count it has to say then.

use leno_tests::Random;

/// How the caller behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// Asks without a body.
    Asks,
    /// Sends a body.
    Tells,
    /// A call of gRPC.
    Calls,
    /// Leaves in the middle of its own body.
    LeavesTelling,
    /// Leaves in the middle of the answer's body.
    LeavesListening,
}

/// Status and response flags, as the log and the metrics write them.
pub(super) type Word = (u16, &'static str);

/// What the sidecar of the app says: once for each attempt that reached it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum There {
    /// Exactly these, in order.
    Each(&'static [Word]),
    /// This, if the request got there before the caller's sidecar gave up.
    AtMost(Word),
}

/// One kind of request.
#[derive(Debug)]
pub(super) struct Kind {
    /// The first segment of its path.
    pub(super) name: &'static str,
    /// How many there are in the run.
    pub(super) count: usize,
    /// What the app is told to do.
    pub(super) script: &'static str,
    pub(super) how: How,
    /// What the caller's sidecar says, exactly once.
    pub(super) here: Word,
    pub(super) there: There,
    /// `grpc-status` of the answer, where there is one.
    pub(super) grpc: &'static str,
}

impl Kind {
    /// Whether an answer may carry this flag in `x-leno-error`: that of the sidecar that made it. None is always right,
    /// since what the app answered is nobody's error.
    pub(super) fn may_tell(&self, flag: &str) -> bool {
        let there = match &self.there {
            There::Each(words) => words,
            There::AtMost(word) => std::slice::from_ref(word),
        };
        flag.is_empty() || there.iter().chain([&self.here]).any(|(_, flags)| *flags == flag)
    }
}

const fn kind((name, count): (&'static str, usize), script: &'static str, how: How, here: Word, there: There) -> Kind {
    Kind { name, count, script, how, here, there, grpc: "" }
}

const fn grpc((name, count): (&'static str, usize), script: &'static str, grpc: &'static str, there: There) -> Kind {
    Kind { name, count, script, how: How::Calls, here: (200, "-"), there, grpc }
}

use How::{Asks, LeavesListening, LeavesTelling, Tells};
use There::{AtMost, Each};

/// 10 000 requests.
pub(super) const KINDS: &[Kind] = &[
    kind(("ok", 3400), "200", Asks, (200, "-"), Each(&[(200, "-")])),
    kind(("told", 1900), "200", Tells, (200, "-"), Each(&[(200, "-")])),
    kind(("missing", 300), "404", Asks, (404, "-"), Each(&[(404, "-")])),
    kind(("again", 600), "503; 200", Asks, (200, "-"), Each(&[(503, "-"), (200, "-")])),
    kind(("in-vain", 150), "503", Asks, (503, "URX"), Each(&[(503, "-"), (503, "-"), (503, "-")])),
    kind(("abort", 500), "200", Asks, (418, "FI"), Each(&[])),
    kind(("delay", 200), "200", Asks, (200, "DI"), Each(&[(200, "-")])),
    kind(("denied", 500), "200", Asks, (403, "-"), Each(&[(403, "UAEX")])),
    kind(("nowhere", 300), "200", Asks, (404, "NR"), Each(&[])),
    kind(("moved", 150), "200", Asks, (301, "-"), Each(&[])),
    kind(("late", 200), "silent", Asks, (504, "UT"), AtMost((0, "DC"))),
    kind(("reset", 200), "reset", Tells, (503, "-"), Each(&[(503, "UC")])),
    kind(("broken", 150), "reset-in-body", Tells, (200, "UPE"), Each(&[(200, "UPE")])),
    kind(("left-listening", 200), "half", LeavesListening, (200, "DC"), Each(&[(200, "DC")])),
    kind(("left-telling", 150), "200", LeavesTelling, (0, "DC"), AtMost((0, "DC"))),
    grpc(("grpc-ok", 700), "grpc-late=0", "0", Each(&[(200, "-")])),
    grpc(("grpc-refused", 200), "grpc=7", "7", Each(&[(200, "-")])),
    grpc(("grpc-late", 200), "grpc-late=5", "5", Each(&[(200, "-")])),
];

/// One request of the run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Order {
    /// Its number, in its path and in `x-run`.
    pub(super) number: usize,
    pub(super) kind: &'static Kind,
}

impl Order {
    /// Its path: kind and number.
    pub(super) fn path(&self) -> String {
        format!("/{}/{}", self.kind.name, self.number)
    }
}

/// All requests, in an order that the seed says.
pub(super) fn orders(random: &mut Random) -> Vec<Order> {
    let mut kinds: Vec<&'static Kind> = KINDS.iter().flat_map(|kind| std::iter::repeat_n(kind, kind.count)).collect();
    // Fisher and Yates.
    for last in (1..kinds.len()).rev() {
        kinds.swap(last, random.below(last + 1));
    }
    kinds.into_iter().enumerate().map(|(number, kind)| Order { number, kind }).collect()
}
