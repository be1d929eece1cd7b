//! Sending many statements without waiting for the answer of any.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use bytes::{BufMut, BytesMut};
use futures::FutureExt;
use futures::future::{BoxFuture, maybe_done};
use pgconvoy_flow::stream::text_array::Parameter;
use tokio_postgres::types::{Format, IsNull, ToSql, Type, to_sql_checked};

/// Polls each once, in order, which sends it; then waits for all answers, which come in that order.
pub(super) async fn answers_in_order<T>(sent: Vec<BoxFuture<'_, T>>) -> Vec<T> {
    let mut sent: Vec<_> = sent.into_iter().map(maybe_done).collect();
    poll_fn(|cx| {
        for each in &mut sent {
            // Whether it has its answer is looked at below.
            let _answered = each.poll_unpin(cx);
        }
        Poll::Ready(())
    })
    .await;
    let mut answers = Vec::with_capacity(sent.len());
    for mut each in sent {
        (&mut each).await;
        answers.extend(Pin::new(&mut each).take_output());
    }
    answers
}

/// A parameter of type `text[]`, in the form in which it is sent.
#[derive(Debug)]
pub(super) struct TextArray<'p>(pub(super) &'p Parameter);

impl ToSql for TextArray<'_> {
    fn to_sql(
        &self,
        _type: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        // At once, not by doubling it again and again.
        out.reserve(self.0.bytes());
        self.0.pieces().for_each(|piece| out.put_slice(piece));
        Ok(IsNull::No)
    }

    fn accepts(of: &Type) -> bool {
        *of == Type::TEXT_ARRAY
    }

    fn encode_format(&self, _type: &Type) -> Format {
        Format::Binary
    }

    to_sql_checked!();
}
