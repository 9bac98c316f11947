//! What the watches count. The label is a kind that the program knows, so that the number of series is fixed.

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// Cheap to clone; all clones count the same.
#[derive(Debug, Clone)]
pub(crate) struct Counts {
    events: IntCounterVec,
    lists: IntCounterVec,
    errors: IntCounterVec,
    objects: IntGaugeVec,
    writes: IntCounterVec,
    leads: IntGauge,
    reviews: IntCounterVec,
}

/// Which webhook the API server asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Webhook {
    /// About a pod that is made.
    Inject,
    /// About a rule that is written.
    Validate,
}

/// What a webhook answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReviewVerdict {
    /// The object is changed: a pod gets a sidecar.
    Patched,
    /// The object is taken as it is.
    Allowed,
    /// The object is refused, with the reason.
    Denied,
    /// The question could not be read or answered.
    Failed,
}

impl Webhook {
    const ALL: [Self; 2] = [Self::Inject, Self::Validate];

    fn label(self) -> &'static str {
        match self {
            Self::Inject => "inject",
            Self::Validate => "validate",
        }
    }
}

impl ReviewVerdict {
    const ALL: [Self; 4] = [Self::Patched, Self::Allowed, Self::Denied, Self::Failed];

    fn label(self) -> &'static str {
        match self {
            Self::Patched => "patched",
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Failed => "failed",
        }
    }
}

/// What became of a status that was to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Write {
    /// It stands there.
    Done,
    /// The rule is gone.
    Gone,
    /// It will be tried again.
    Failed,
}

impl Write {
    fn label(self) -> &'static str {
        match self {
            Self::Done => "written",
            Self::Gone => "gone",
            Self::Failed => "failed",
        }
    }
}

impl Counts {
    /// All at zero.
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, label: &str| {
            IntCounterVec::new(Opts::new(format!("leno_kubernetes_{name}"), help), &[label])
        };
        let counts = Self {
            events: counters("watch_events_total", "Objects that came, changed or went.", "kind")?,
            lists: counters("lists_total", "Complete lists; more than one per kind is an expired watch.", "kind")?,
            errors: counters("watch_errors_total", "Answers of the API server that were none.", "kind")?,
            objects: IntGaugeVec::new(Opts::new("leno_kubernetes_objects", "Objects that are known."), &["kind"])?,
            writes: counters("status_writes_total", "Statuses of rules, by what became of writing them.", "result")?,
            leads: IntGauge::new("leno_kubernetes_leader", "1 while this control plane holds the Lease, and writes.")?,
            reviews: IntCounterVec::new(
                Opts::new(
                    "leno_kubernetes_webhook_requests_total",
                    "Questions of the API server, by what was answered.",
                ),
                &["webhook", "verdict"],
            )?,
        };
        for webhook in Webhook::ALL {
            for verdict in ReviewVerdict::ALL {
                counts.reviews.with_label_values(&[webhook.label(), verdict.label()]);
            }
        }
        for result in [Write::Done, Write::Gone, Write::Failed] {
            counts.writes.with_label_values(&[result.label()]);
        }
        registry.register(Box::new(counts.leads.clone()))?;
        for counter in [&counts.events, &counts.lists, &counts.errors, &counts.writes, &counts.reviews] {
            registry.register(Box::new(counter.clone()))?;
        }
        registry.register(Box::new(counts.objects.clone()))?;
        Ok(counts)
    }

    pub(super) fn event(&self, kind: &str) {
        self.events.with_label_values(&[kind]).inc();
    }

    pub(super) fn listed(&self, kind: &str) {
        self.lists.with_label_values(&[kind]).inc();
    }

    pub(super) fn error(&self, kind: &str) {
        self.errors.with_label_values(&[kind]).inc();
    }

    pub(crate) fn objects(&self, kind: &str, number: usize) {
        self.objects.with_label_values(&[kind]).set(i64::try_from(number).unwrap_or(i64::MAX));
    }

    /// Whether this control plane leads, from now on.
    pub(super) fn leads(&self, leads: bool) {
        self.leads.set(i64::from(leads));
    }

    pub(super) fn reviewed(&self, webhook: Webhook, verdict: ReviewVerdict) {
        self.reviews.with_label_values(&[webhook.label(), verdict.label()]).inc();
    }

    pub(super) fn wrote(&self, result: Write) {
        self.writes.with_label_values(&[result.label()]).inc();
    }
}
