//! An authority in this process, and a clock that only moves when somebody waits.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use leno_proxy::identity::authority::{Authority, SignError};
use leno_proxy::identity::clock::Clock;
use rcgen::{CertificateSigningRequestParams, PublicKeyData};
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;

use crate::ca::{Ca, Leaf, MINUTE};

/// Signs what it is asked, or not.
pub(crate) struct TestAuthority {
    pub(crate) ca: Ca,
    /// Of each certificate, from when it is asked for.
    pub(crate) life: Duration,
    /// Says whether it answers at a time.
    pub(crate) is_up: Box<dyn Fn(SystemTime) -> bool>,
    /// When it was asked, and whether it answered.
    pub(crate) asked: Arc<Mutex<Vec<(SystemTime, bool)>>>,
    /// The public keys it was shown.
    pub(crate) keys: Arc<Mutex<BTreeSet<Vec<u8>>>>,
}

impl TestAuthority {
    pub(crate) fn new(life: Duration, is_up: impl Fn(SystemTime) -> bool + 'static) -> Self {
        Self { ca: Ca::new("root"), life, is_up: Box::new(is_up), asked: Arc::default(), keys: Arc::default() }
    }
}

impl Authority for TestAuthority {
    async fn sign(&self, csr: &str, now: SystemTime) -> Result<Vec<String>, SignError> {
        let request = CertificateSigningRequestParams::from_pem(csr).unwrap();
        self.keys.lock().unwrap().insert(request.public_key.der_bytes().to_vec());
        let is_up = (self.is_up)(now);
        self.asked.lock().unwrap().push((now, is_up));
        if !is_up {
            return Err(SignError::Deadline);
        }
        let leaf = Leaf { valid: (now - 10 * MINUTE, now + self.life), ..Leaf::cart(now) };
        Ok(vec![self.ca.sign(csr, &leaf), self.ca.root()])
    }

    fn roots(&self) -> Vec<CertificateDer<'static>> {
        vec![self.ca.root_der()]
    }
}

/// Waiting takes no time. When the end has come, it says stop.
#[derive(Clone)]
pub(crate) struct TestClock {
    inner: Arc<Mutex<Inner>>,
    stop: watch::Sender<bool>,
}

struct Inner {
    now: SystemTime,
    /// How long was waited in all, and until when it may be.
    waited: Duration,
    end: Duration,
    /// After so much waiting, the time of day is set forward or back.
    jumps: Vec<(Duration, i64)>,
    naps: Vec<Duration>,
}

impl TestClock {
    pub(crate) fn new(now: SystemTime, end: Duration) -> (Self, watch::Receiver<bool>) {
        let (stop, stopped) = watch::channel(false);
        let inner = Inner { now, waited: Duration::ZERO, end, jumps: Vec::new(), naps: Vec::new() };
        (Self { inner: Arc::new(Mutex::new(inner)), stop }, stopped)
    }

    pub(crate) fn jump(self, after: Duration, seconds: i64) -> Self {
        self.inner.lock().unwrap().jumps.push((after, seconds));
        self
    }

    /// Somebody sets the time of day.
    pub(crate) fn set(&self, now: SystemTime) {
        self.inner.lock().unwrap().now = now;
    }

    pub(crate) fn naps(&self) -> Vec<Duration> {
        self.inner.lock().unwrap().naps.clone()
    }

    pub(crate) fn waited(&self) -> Duration {
        self.inner.lock().unwrap().waited
    }
}

impl Clock for TestClock {
    fn now(&self) -> SystemTime {
        self.inner.lock().unwrap().now
    }

    async fn sleep(&self, duration: Duration) {
        {
            let mut inner = self.inner.lock().unwrap();
            inner.now += duration;
            inner.waited += duration;
            inner.naps.push(duration);
            let waited = inner.waited;
            let (due, later): (Vec<_>, Vec<_>) = inner.jumps.drain(..).partition(|(after, _)| *after <= waited);
            inner.jumps = later;
            for (_, seconds) in due {
                let by = Duration::from_secs(seconds.unsigned_abs());
                inner.now = if seconds < 0 { inner.now - by } else { inner.now + by };
            }
            if waited >= inner.end {
                self.stop.send_replace(true);
            }
        }
        tokio::task::yield_now().await;
    }
}
