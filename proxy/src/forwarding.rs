//! A stream inside a stream: what it writes goes on as it is.

use std::io;
use std::task::Poll;

/// What the outer stream is told of a call: whether the inner one takes anything, and how many bytes it took. An error has
/// taken none.
#[inline]
pub(crate) fn went<T>(polled: &Poll<io::Result<T>>, bytes: impl FnOnce(&T) -> usize) -> Poll<usize> {
    match polled {
        Poll::Pending => Poll::Pending,
        Poll::Ready(taken) => Poll::Ready(taken.as_ref().map_or(0, bytes)),
    }
}

/// Implements `AsyncWrite` for a type whose field is one, write by write. `=>` names a method of the type which hears
/// after each call what became of it: `fn(&mut self, Poll<usize>)`.
macro_rules! forward_writes {
    ($outer:ty, $field:tt $(=> $tell:ident)? $(, $generic:ident: $bound:path)?) => {
        impl$(<$generic: $bound + Unpin>)? tokio::io::AsyncWrite for $outer {
            #[inline]
            fn poll_write(
                mut self: std::pin::Pin<&mut Self>,
                context: &mut std::task::Context<'_>,
                bytes: &[u8],
            ) -> std::task::Poll<std::io::Result<usize>> {
                let polled = std::pin::Pin::new(&mut self.$field).poll_write(context, bytes);
                $(self.$tell($crate::forwarding::went(&polled, |bytes| *bytes));)?
                polled
            }

            #[inline]
            fn poll_write_vectored(
                mut self: std::pin::Pin<&mut Self>,
                context: &mut std::task::Context<'_>,
                slices: &[std::io::IoSlice<'_>],
            ) -> std::task::Poll<std::io::Result<usize>> {
                let polled = std::pin::Pin::new(&mut self.$field).poll_write_vectored(context, slices);
                $(self.$tell($crate::forwarding::went(&polled, |bytes| *bytes));)?
                polled
            }

            fn is_write_vectored(&self) -> bool {
                self.$field.is_write_vectored()
            }

            #[inline]
            fn poll_flush(
                mut self: std::pin::Pin<&mut Self>,
                context: &mut std::task::Context<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                let polled = std::pin::Pin::new(&mut self.$field).poll_flush(context);
                $(self.$tell($crate::forwarding::went(&polled, |()| 0));)?
                polled
            }

            fn poll_shutdown(
                mut self: std::pin::Pin<&mut Self>,
                context: &mut std::task::Context<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                let polled = std::pin::Pin::new(&mut self.$field).poll_shutdown(context);
                $(self.$tell($crate::forwarding::went(&polled, |()| 0));)?
                polled
            }
        }
    };
}

pub(crate) use forward_writes;
