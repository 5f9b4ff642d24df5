//! What chitchat calls of the crate `tokio-stream`: one type, here on the facade `tokio`.

#![forbid(unsafe_code)]

/// Streams over what the facade `tokio` has.
pub mod wrappers {
    use std::fmt;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use futures_lite::Stream;
    use futures_lite::stream;
    use tokio::sync::watch::Receiver;

    /// The value of a watch channel as a stream: the current one first, then each change that is
    /// seen. It ends with the sender.
    pub struct WatchStream<T>(Pin<Box<dyn Stream<Item = T> + Send>>);

    impl<T: Clone + Send + Sync + 'static> WatchStream<T> {
        /// The stream of a receiver.
        #[must_use]
        pub fn new(receiver: Receiver<T>) -> Self {
            let first = true;
            Self(Box::pin(stream::unfold((receiver, first), async |(mut receiver, first)| {
                if !first && receiver.changed().await.is_err() {
                    return None;
                }
                let value = receiver.borrow_and_update().clone();
                Some((value, (receiver, false)))
            })))
        }
    }

    impl<T> Stream for WatchStream<T> {
        type Item = T;

        fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
            self.0.as_mut().poll_next(cx)
        }
    }

    impl<T> fmt::Debug for WatchStream<T> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("WatchStream")
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::StreamExt as _;
    use tokio::runtime::Runtime;
    use tokio::sync::watch;

    use super::wrappers::WatchStream;

    #[test]
    fn a_stream_begins_with_the_value_and_ends_with_the_sender() {
        Runtime::new().block_on(async {
            let (sender, receiver) = watch::channel(1);
            let mut stream = WatchStream::new(receiver);
            assert_eq!(stream.next().await, Some(1));
            sender.send(2).unwrap();
            sender.send(3).unwrap();
            assert_eq!(stream.next().await, Some(3));
            drop(sender);
            assert_eq!(stream.next().await, None);
        });
    }
}
