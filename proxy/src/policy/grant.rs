//! A request that was let in, until it has ended or may no longer go on.
//!
//! Policies are asked once, when a request comes; a stream may last for days after that. Where there are policies, what
//! they were asked is therefore kept for as long as the request is open, so that it can be asked again when they change.
//! Whoever carries the request looks at its grant: while the answer is awaited, at each frame of either body, and beside
//! the bytes of a tunnel.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use http::Request;
use http::header::{self, HeaderValue};
use http::request::Parts;

use crate::error::ProxyError;

use super::jwt::Verified;

/// Entries that a connection's list may have before the dead ones are looked for.
const FEW: usize = 8;

/// The permission of one request.
pub struct Grant {
    head: Parts,
    /// Its `Host`, where no other header is kept.
    host: Option<HeaderValue>,
    token: Option<Rc<Verified>>,
    revoked: Cell<bool>,
    /// Of the one who waits: for the head of the answer, then for its body or in its tunnel.
    waker: RefCell<Option<Waker>>,
}

/// The requests of one connection that were let in and are open.
#[derive(Debug)]
pub struct Grants {
    /// Not more than [`FEW`] or twice those that were open when the dead ones were last taken out.
    list: RefCell<Vec<Weak<Grant>>>,
    limit: Cell<usize>,
}

impl Grant {
    /// Keeps what policies see of a request.
    pub fn new(head: &Parts, token: Option<&Rc<Verified>>) -> Rc<Self> {
        let mut grant = Self::bare(head);
        grant.head.headers = head.headers.clone();
        grant.token = token.cloned();
        Rc::new(grant)
    }

    /// Keeps what the first policy that comes is most likely to ask about: method, host and path. Headers would have to be
    /// copied for every request where nobody has asked for policies; an ALLOW that goes by them ends such a request, a DENY
    /// that does lets it finish.
    pub fn without_headers(head: &Parts) -> Rc<Self> {
        let host = head.headers.get(header::HOST).cloned();
        Rc::new(Self { host, ..Self::bare(head) })
    }

    fn bare(head: &Parts) -> Self {
        // What hyper keeps beside a head (upgrades) is not needed, and would live longer for it.
        let mut kept = Request::new(()).into_parts().0;
        kept.method = head.method.clone();
        kept.uri = head.uri.clone();
        Self { head: kept, host: None, token: None, revoked: Cell::new(false), waker: RefCell::default() }
    }

    /// The request as policies saw it, or would have.
    pub fn head(&self) -> Cow<'_, Parts> {
        let Some(host) = &self.host else { return Cow::Borrowed(&self.head) };
        let mut head = self.head.clone();
        head.headers.insert(header::HOST, host.clone());
        Cow::Owned(head)
    }

    /// Its token, as it was verified then.
    pub fn token(&self) -> Option<&Verified> {
        self.token.as_deref()
    }

    /// Ends the request, at its next step or now.
    pub fn revoke(&self) {
        self.revoked.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Whether it is over.
    pub fn is_revoked(&self) -> bool {
        self.revoked.get()
    }

    /// Ready when it is over. One may wait at a time.
    pub fn poll_revoked(&self, context: &Context<'_>) -> Poll<()> {
        if self.revoked.get() {
            return Poll::Ready(());
        }
        let mut waker = self.waker.borrow_mut();
        match waker.as_mut() {
            Some(waker) => waker.clone_from(context.waker()),
            None => *waker = Some(context.waker().clone()),
        }
        Poll::Pending
    }
}

impl fmt::Debug for Grant {
    /// Without the request, which may carry a token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant").field("revoked", &self.revoked).finish_non_exhaustive()
    }
}

/// What the work for a request brings, unless its grant is revoked before.
pub fn while_granted<T>(
    grant: Option<&Grant>,
    mut work: Pin<&mut impl Future<Output = Result<T, ProxyError>>>,
) -> impl Future<Output = Result<T, ProxyError>> + Unpin {
    poll_fn(move |context| match grant.map(|grant| grant.poll_revoked(context)) {
        Some(Poll::Ready(())) => Poll::Ready(Err(ProxyError::Revoked)),
        Some(Poll::Pending) | None => work.as_mut().poll(context),
    })
}

impl Default for Grants {
    fn default() -> Self {
        Self { list: RefCell::default(), limit: Cell::new(FEW) }
    }
}

impl Grants {
    /// One more.
    pub fn add(&self, grant: &Rc<Grant>) {
        let mut list = self.list.borrow_mut();
        // In HTTP/1.1 the request before is over: its place is free at once.
        while list.last().is_some_and(|last| last.strong_count() == 0) {
            list.pop();
        }
        if list.len() >= self.limit.get() {
            list.retain(|grant| grant.strong_count() > 0);
            self.limit.set(FEW.max(2 * list.len()));
        }
        list.push(Rc::downgrade(grant));
    }

    /// Those that go on.
    pub fn open(&self) -> Vec<Rc<Grant>> {
        let mut open: Vec<_> = self.list.borrow().iter().filter_map(Weak::upgrade).collect();
        open.retain(|grant| !grant.is_revoked());
        open
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    fn grant() -> Rc<Grant> {
        Grant::new(&Request::new(()).into_parts().0, None)
    }

    fn context() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    #[test]
    fn a_connections_list_does_not_grow_with_the_requests_that_are_over() {
        let one_after_another = Grants::default();
        for _ in 0..1000 {
            one_after_another.add(&grant());
            assert_eq!(one_after_another.list.borrow().len(), 1);
        }
        // A stream that stays open keeps those before it from being the last.
        for lasting in [1, 7, 100] {
            let grants = Grants::default();
            let (mut open, mut most) = (Vec::new(), 0);
            for round in 0..10_000 {
                let (short, long) = (grant(), grant());
                grants.add(&short);
                grants.add(&long);
                if open.len() == lasting {
                    open.remove(round % lasting);
                }
                open.push(long);
                drop(short);
                most = most.max(grants.list.borrow().len());
            }
            assert!(most <= FEW.max(2 * (lasting + 2)), "{lasting} open, {most} remembered");
            assert_eq!(grants.open().len(), lasting);
        }
    }

    #[test]
    fn what_is_revoked_is_not_asked_again() {
        let (grants, one, other) = (Grants::default(), grant(), grant());
        grants.add(&one);
        grants.add(&other);
        one.revoke();
        assert!(grants.open().iter().all(|open| Rc::ptr_eq(open, &other)) && grants.open().len() == 1);
    }

    #[test]
    fn work_goes_on_until_its_grant_is_revoked() {
        let grant = grant();
        let mut never = pin!(std::future::pending::<Result<(), ProxyError>>());
        let mut work = while_granted(Some(&grant), never.as_mut());
        assert!(Pin::new(&mut work).poll(&mut context()).is_pending());
        grant.revoke();
        let ended = Pin::new(&mut work).poll(&mut context());
        assert!(matches!(ended, Poll::Ready(Err(ProxyError::Revoked))), "{ended:?}");
        for grant in [None, Some(&*self::grant())] {
            let mut done = pin!(std::future::ready(Ok(1)));
            let answer = Pin::new(&mut while_granted(grant, done.as_mut())).poll(&mut context());
            assert!(matches!(answer, Poll::Ready(Ok(1))), "{answer:?}");
        }
    }

    #[test]
    fn who_waits_is_woken() {
        struct Woken(std::sync::atomic::AtomicBool);
        impl std::task::Wake for Woken {
            fn wake(self: std::sync::Arc<Self>) {
                self.0.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        }
        let grant = grant();
        let woken = std::sync::Arc::new(Woken(false.into()));
        assert!(grant.poll_revoked(&context()).is_pending());
        assert!(grant.poll_revoked(&Context::from_waker(&woken.clone().into())).is_pending());
        grant.revoke();
        assert!(woken.0.load(std::sync::atomic::Ordering::Relaxed), "the last who asked");
        assert!(grant.poll_revoked(&context()).is_ready());
    }

    #[test]
    fn a_grant_shows_no_token() {
        let (head, ()) =
            Request::get("/?access_token=secret").header("authorization", "secret").body(()).unwrap().into_parts();
        assert!(!format!("{:?}", Grant::new(&head, None)).contains("secret"));
    }
}
