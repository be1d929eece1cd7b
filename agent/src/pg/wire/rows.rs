//! Questions about the rows of a COPY … TO STDOUT: answered here, or by the agent that passes the session on.

use std::pin::pin;

use pgconvoy_flow::digest::{Answer, Asked, Question};

use super::*;
use crate::relay::Replies;

impl Wire {
    /// Asks about all rows that a statement copies out. `read` is told how many more rows and bytes were read, now and then.
    pub(crate) async fn ask(
        &mut self,
        sql: &str,
        question: Question,
        mut read: impl FnMut(u64, u64),
    ) -> Result<Answer, PgError> {
        // Between a question and its COPY nothing else may come.
        self.settle().await?;
        let mut told = (0, 0);
        let so_far = |(rows, bytes): (u64, u64)| {
            read(rows.saturating_sub(told.0), bytes.saturating_sub(told.1));
            told = (rows, bytes);
        };
        match self.transport.errands().map(|errands| errands.ask(&question)) {
            Some(replies) => self.ask_there(sql, replies, so_far).await,
            None => self.ask_here(sql, question, so_far).await,
        }
    }

    async fn ask_here(
        &mut self,
        sql: &str,
        question: Question,
        mut so_far: impl FnMut((u64, u64)),
    ) -> Result<Answer, PgError> {
        let mut asked = Asked::of(question);
        let mut copy = self.copy_out(sql).await?;
        while let Some(data) = copy.next().await? {
            asked.take(&data).map_err(|bad| PgError::protocol(bad.to_string()))?;
            so_far(asked.so_far());
        }
        Ok(asked.answer())
    }

    /// The rows do not come here; all else does.
    async fn ask_there(
        &mut self,
        sql: &str,
        mut replies: Replies,
        mut so_far: impl FnMut((u64, u64)),
    ) -> Result<Answer, PgError> {
        let counted = {
            let mut copying = pin!(self.copy_out_unseen(sql));
            loop {
                tokio::select! {
                    biased;
                    Some(reply) = replies.next() => so_far(reply),
                    counted = &mut copying => break counted?,
                }
            }
        };
        let answer = replies.answer().map_err(|source| self.broken(source))?;
        match answer {
            Some(answer) if Some(answer.rows) == counted => {
                so_far((answer.rows, answer.bytes));
                Ok(answer)
            }
            other => Err(PgError::protocol(format!(
                "an agent read {:?} rows where the server counted {counted:?}",
                other.map(|answer| answer.rows)
            ))),
        }
    }

    /// A COPY of which no row comes here; the number of rows that the server counted.
    async fn copy_out_unseen(&mut self, sql: &str) -> Result<Option<u64>, PgError> {
        self.begin(sql).await?;
        for during in ["the beginning of a COPY", "a COPY that another agent reads"] {
            match self.message().await? {
                Message::CopyOutResponse(_) | Message::CopyDone => {}
                Message::ErrorResponse(body) => {
                    return Err(self.refused(ServerError::parse(&body)).await);
                }
                _ => return Err(self.out_of_step(during)),
            }
        }
        self.copied_out().await
    }
}
