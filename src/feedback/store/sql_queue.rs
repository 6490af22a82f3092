//! The annotation queue in SQLite and PostgreSQL.

use futures_util::FutureExt;
use sqlx::{AnyConnection, Row as _, any::AnyRow};

use super::{
    Answer, StoreError,
    queue::{Entry, Lease, Leave, Length, Place, QueueStore, Sample, Wish},
    sql::{SqlStore, failed, read},
};
use crate::feedback::record::Feedback;

/// What a lease is made of, of `queue q`.
const LEASED: &str = "q.completion_id, q.choice, q.unassisted, q.overlap";

impl QueueStore for SqlStore {
    fn next<'a>(&'a self, wish: &'a Wish) -> Answer<'a, Option<Lease>> {
        self.within(async move |mut unit| {
            sqlx::query("UPDATE queue_turn SET turn = turn + 1").execute(&mut *unit.connection).await.map_err(failed)?;
            let mut lease = running(&mut unit.connection, wish).await?;
            for unassisted in [wish.unassisted, !wish.unassisted] {
                if lease.is_none() {
                    lease = first(&mut unit.connection, wish, unassisted).await?;
                }
            }
            if let Some(lease) = &lease {
                let sql = "INSERT INTO leases (completion_id, choice, annotator, state, expires) VALUES ($1, $2, $3, 'leased', $4) \
                           ON CONFLICT (completion_id, choice, annotator) DO UPDATE SET expires = excluded.expires";
                let query = sqlx::query(sql).bind(&lease.place.completion_id).bind(lease.place.choice as i64);
                query.bind(&wish.annotator).bind(wish.until as i64).execute(&mut *unit.connection).await.map_err(failed)?;
            }
            Ok((lease, unit))
        })
        .boxed()
    }

    fn lease<'a>(&'a self, place: &'a Place, annotator: &'a str) -> Answer<'a, Option<Lease>> {
        async move {
            let sql = format!(
                "SELECT {LEASED}, l.expires FROM leases l JOIN queue q ON q.completion_id = l.completion_id AND q.choice = l.choice \
                 WHERE l.completion_id = $1 AND l.choice = $2 AND l.annotator = $3 AND l.state IN ('leased', 'done')"
            );
            let query = sqlx::query(&sql).bind(&place.completion_id).bind(place.choice as i64).bind(annotator);
            let row = query.fetch_optional(self.pool()).await.map_err(failed)?;
            row.map(|row| leased(&row, row.try_get::<i64, _>(4)? as u64)).transpose().map_err(failed)
        }
        .boxed()
    }

    fn leave<'a>(&'a self, place: &'a Place, annotator: &'a str, how: Leave) -> Answer<'a, bool> {
        self.within(async move |mut unit| {
            let what = match how {
                Leave::Release => "DELETE FROM leases",
                Leave::Skip(_) => "UPDATE leases SET state = 'skipped'",
            };
            let left = end_lease(&mut unit.connection, what, place, annotator).await?;
            if let (true, Leave::Skip(most)) = (left, how) {
                let sql = "UPDATE queue SET skips = skips + 1, wanted = CASE WHEN skips + 1 >= $3 THEN -1 ELSE wanted END \
                           WHERE completion_id = $1 AND choice = $2";
                let query = sqlx::query(sql).bind(&place.completion_id).bind(place.choice as i64).bind(i64::from(most));
                query.execute(&mut *unit.connection).await.map_err(failed)?;
            }
            Ok((left, unit))
        })
        .boxed()
    }

    fn length(&self, now: u64) -> Answer<'_, Length> {
        async move {
            let sql = format!(
                "SELECT 'open', count(*) FROM queue WHERE wanted > 0 AND unassisted = 0 \
                 UNION ALL SELECT 'unassisted', count(*) FROM queue WHERE wanted > 0 AND unassisted = 1 \
                 UNION ALL SELECT 'leased', count(*) FROM leases WHERE state = 'leased' AND expires > {now} \
                 UNION ALL SELECT 'done', count(*) FROM queue WHERE wanted <= 0 AND wanted = 0 \
                 UNION ALL SELECT 'skipped', count(*) FROM queue WHERE wanted <= 0 AND wanted = -1"
            );
            let counts = self.counts(&sql).await?;
            let of = |name: &str| counts.iter().find(|(n, _)| n == name).map_or(0, |(_, count)| *count);
            let unassisted = of("unassisted");
            Ok(Length { open: of("open") + unassisted, leased: of("leased"), unassisted, done: of("done"), skipped: of("skipped") })
        }
        .boxed()
    }

    fn sample(&self, sample: Sample, limit: u32) -> Answer<'_, Vec<Feedback>> {
        async move {
            let column = match sample {
                Sample::Overlapping => "overlapping",
                Sample::Unassisted => "unassisted",
            };
            let sql = format!("SELECT body FROM feedback WHERE {column} = 1 ORDER BY id DESC LIMIT {limit}");
            let rows = sqlx::query(&sql).fetch_all(self.pool()).await.map_err(failed)?;
            rows.iter().map(read).collect()
        }
        .boxed()
    }
}

/// The answer that the annotator has already.
async fn running(connection: &mut AnyConnection, wish: &Wish) -> Result<Option<Lease>, StoreError> {
    let sql = format!(
        "SELECT {LEASED} FROM leases l JOIN queue q ON q.completion_id = l.completion_id AND q.choice = l.choice \
         WHERE l.annotator = $1 AND l.state = 'leased' AND l.expires > $2 AND q.wanted > 0 ORDER BY l.expires LIMIT 1"
    );
    let query = sqlx::query(&sql).bind(&wish.annotator).bind(wish.now as i64);
    let row = query.fetch_optional(&mut *connection).await.map_err(failed)?;
    row.map(|row| leased(&row, wish.until)).transpose().map_err(failed)
}

/// The first of a queue that the annotator has not done with and that still has room. What is passed over on the way there is leased, or was skipped or
/// judged by this annotator and waits for another.
async fn first(connection: &mut AnyConnection, wish: &Wish, unassisted: bool) -> Result<Option<Lease>, StoreError> {
    let of_item = "FROM leases l WHERE l.completion_id = q.completion_id AND l.choice = q.choice AND";
    let sql = format!(
        "SELECT {LEASED} FROM queue q WHERE q.wanted > 0 AND q.unassisted = {} \
         AND q.wanted > (SELECT count(*) {of_item} l.state = 'leased' AND l.expires > $2) \
         AND NOT EXISTS (SELECT 1 {of_item} l.annotator = $1 AND l.state <> 'leased') ORDER BY q.rank DESC LIMIT 1",
        i64::from(unassisted)
    );
    let query = sqlx::query(&sql).bind(&wish.annotator).bind(wish.now as i64);
    let row = query.fetch_optional(&mut *connection).await.map_err(failed)?;
    row.map(|row| leased(&row, wish.until)).transpose().map_err(failed)
}

fn leased(row: &AnyRow, expires: u64) -> Result<Lease, sqlx::Error> {
    let number = |column| row.try_get::<i64, _>(column);
    let place = Place { completion_id: row.try_get(0)?, choice: number(1)? as usize };
    Ok(Lease { place, unassisted: number(2)? == 1, overlap: number(3)? == 1, expires })
}

async fn end_lease(connection: &mut AnyConnection, what: &str, place: &Place, annotator: &str) -> Result<bool, StoreError> {
    let sql = format!("{what} WHERE completion_id = $1 AND choice = $2 AND annotator = $3 AND state = 'leased'");
    let query = sqlx::query(&sql).bind(&place.completion_id).bind(place.choice as i64).bind(annotator);
    Ok(query.execute(&mut *connection).await.map_err(failed)?.rows_affected() > 0)
}

/// Puts an answer in the queue, unless it is there.
pub(super) async fn enqueue(connection: &mut AnyConnection, entry: &Entry) -> Result<(), StoreError> {
    // A receipt that is gone again takes no place.
    let sql = "INSERT INTO queue (completion_id, choice, unassisted, overlap, rank, wanted) \
               SELECT id, $2, $3, $4, $5, $6 FROM receipts WHERE id = $1 ON CONFLICT DO NOTHING";
    let query = sqlx::query(sql).bind(&entry.completion_id).bind(entry.choice as i64).bind(i64::from(entry.unassisted));
    let query = query.bind(i64::from(entry.overlap)).bind(entry.rank).bind(1 + i64::from(entry.overlap));
    query.execute(&mut *connection).await.map(drop).map_err(failed)
}

/// Counts a judgement by a named annotator, whether the queue gave out the answer or not; a second one by the same changes nothing. What the queue did not
/// give out is `outside`: it is no part of the samples that agreement and recall are estimated from.
pub(super) async fn judged(connection: &mut AnyConnection, record: &Feedback) -> Result<(), StoreError> {
    let (Some(completion_id), Some(choice), Some(annotator)) = (&record.completion_id, record.choice, &record.annotator) else {
        return Ok(());
    };
    let sql = "INSERT INTO leases (completion_id, choice, annotator, state, expires) \
               SELECT completion_id, choice, $3, 'outside', 0 FROM queue WHERE completion_id = $1 AND choice = $2 \
               ON CONFLICT (completion_id, choice, annotator) DO UPDATE SET state = CASE leases.state WHEN 'leased' THEN 'done' ELSE 'outside' END \
               WHERE leases.state IN ('leased', 'skipped')";
    let query = sqlx::query(sql).bind(completion_id).bind(choice as i64).bind(annotator);
    if query.execute(&mut *connection).await.map_err(failed)?.rows_affected() > 0 {
        let sql = "UPDATE queue SET wanted = wanted - 1 WHERE completion_id = $1 AND choice = $2 AND wanted > 0";
        let query = sqlx::query(sql).bind(completion_id).bind(choice as i64);
        query.execute(&mut *connection).await.map_err(failed)?;
    }
    Ok(())
}
