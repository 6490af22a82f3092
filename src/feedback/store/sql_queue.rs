//! Annotation queue on SQLite or PostgreSQL.

use sqlx::{AnyConnection, Row as _, any::AnyRow};

use super::{
    Owners, StoreError, StoreFuture,
    queue::{
        AnnotatorId, AnnotatorProgress, ChoiceId, Lease, LeaseRequest, LeaseReturn, QueueEntry,
        QueueLength, QueueStore, RatingSample,
    },
    sql::{SqlQuery, SqlStore, bind_owner, failed, owner_condition, read},
};
use crate::feedback::record::{Feedback, item_digest};

const DAY_S: u64 = 24 * 60 * 60;

/// Columns of `queue q` that a lease is read from.
const LEASED: &str = "q.completion_id, q.choice, q.unassisted, q.overlap";

impl QueueStore for SqlStore {
    fn next<'a>(&'a self, wish: &'a LeaseRequest) -> StoreFuture<'a, Option<Lease>> {
        self.answer(self.transaction(async move |mut transaction| {
            take_turn(&mut transaction.connection).await?;
            let mut lease = running_lease(&mut transaction.connection, wish).await?;
            for unassisted in [wish.unassisted, !wish.unassisted] {
                if lease.is_none() {
                    lease = first_open(&mut transaction.connection, wish, unassisted).await?;
                }
            }
            if let Some(lease) = &lease {
                let sql = "INSERT INTO leases (completion_id, choice, annotator, annotator_owner, \
                           state, expires) \
                           VALUES ($1, $2, $3, $4, 'leased', $5) \
                           ON CONFLICT (completion_id, choice, annotator_owner, annotator) DO \
                           UPDATE SET expires = excluded.expires";
                let query = bind_annotator(sqlx::query(sql), &lease.answer, &wish.annotator)
                    .bind(wish.until as i64);
                query
                    .execute(&mut *transaction.connection)
                    .await
                    .map_err(failed)?;
            }
            Ok((lease, transaction))
        }))
    }

    fn lease<'a>(
        &'a self,
        answer: &'a ChoiceId,
        annotator: &'a AnnotatorId,
    ) -> StoreFuture<'a, Option<Lease>> {
        self.answer(async move {
            let sql = format!(
                "SELECT {LEASED}, l.expires FROM leases l JOIN queue q ON q.completion_id = \
                 l.completion_id AND q.choice = l.choice \
                 WHERE l.completion_id = $1 AND l.choice = $2 AND l.annotator = $3 AND \
                 l.annotator_owner = $4 AND l.state IN ('leased', 'done')"
            );
            let query = bind_annotator(sqlx::query(&sql), answer, annotator);
            let row = query.fetch_optional(self.pool()).await.map_err(failed)?;
            row.map(|row| read_lease(&row, row.try_get::<i64, _>(4)? as u64))
                .transpose()
                .map_err(failed)
        })
    }

    fn leave<'a>(
        &'a self,
        answer: &'a ChoiceId,
        annotator: &'a AnnotatorId,
        end: LeaseReturn,
    ) -> StoreFuture<'a, bool> {
        self.answer(self.transaction(async move |mut transaction| {
            let what = match end {
                LeaseReturn::Release => "DELETE FROM leases",
                LeaseReturn::Skip(_) => "UPDATE leases SET state = 'skipped'",
            };
            let left = end_lease(&mut transaction.connection, what, answer, annotator).await?;
            if let (true, LeaseReturn::Skip(most)) = (left, end) {
                let sql = "UPDATE queue SET skips = skips + 1, wanted = CASE WHEN skips + 1 >= $3 \
                           THEN -1 ELSE wanted END \
                           WHERE completion_id = $1 AND choice = $2";
                let query = sqlx::query(sql)
                    .bind(&answer.completion_id)
                    .bind(answer.choice as i64)
                    .bind(i64::from(most));
                query
                    .execute(&mut *transaction.connection)
                    .await
                    .map_err(failed)?;
            }
            Ok((left, transaction))
        }))
    }

    fn length<'a>(&'a self, owners: &'a Owners, now: u64) -> StoreFuture<'a, QueueLength> {
        self.answer(async move {
            let condition = owner_condition(owners, "q.owner", 1);
            let sql = format!(
                "SELECT 'open', count(*) FROM queue q WHERE q.wanted > 0 AND q.unassisted = \
                 0{condition} UNION ALL SELECT 'unassisted', count(*) FROM queue q WHERE q.wanted \
                 > 0 AND q.unassisted = 1{condition} \
                 UNION ALL SELECT 'leased', count(*) FROM leases l JOIN queue q ON q.completion_id \
                 = l.completion_id AND q.choice = l.choice \
                 WHERE l.state = 'leased' AND l.expires > {now}{condition} \
                 UNION ALL SELECT 'done', count(*) FROM queue q WHERE q.wanted <= 0 AND q.wanted = \
                 0{condition} \
                 UNION ALL SELECT 'skipped', count(*) FROM queue q WHERE q.wanted <= 0 AND \
                 q.wanted = -1{condition}"
            );
            let counts = self.counts(&sql, owners).await?;
            let count = |name: &str| {
                counts
                    .iter()
                    .find(|(n, _)| n == name)
                    .map_or(0, |(_, count)| *count)
            };
            let unassisted = count("unassisted");
            Ok(QueueLength {
                open: count("open") + unassisted,
                leased: count("leased"),
                unassisted,
                done: count("done"),
                skipped: count("skipped"),
            })
        })
    }

    fn progress<'a>(
        &'a self,
        annotator: &'a AnnotatorId,
        now: u64,
    ) -> StoreFuture<'a, AnnotatorProgress> {
        self.answer(async move {
            let midnight = now / DAY_S * DAY_S;
            let sql =
                "SELECT count(*), count(CASE WHEN created >= $3 THEN 1 END) FROM feedback WHERE \
                 annotator = $1 AND annotator_owner = $2";
            let query = sqlx::query(sql).bind(&annotator.name).bind(&annotator.owner)
                .bind(midnight as i64);
            let row = query.fetch_one(self.pool()).await.map_err(failed)?;
            let count = |column| row.try_get::<i64, _>(column).map(|n| n as u64).map_err(failed);
            Ok(AnnotatorProgress { total: count(0)?, today: count(1)? })
        })
    }

    fn sample<'a>(
        &'a self,
        sample: RatingSample,
        owners: &'a Owners,
        limit: u32,
    ) -> StoreFuture<'a, Vec<Feedback>> {
        self.answer(async move {
            let column = match sample {
                RatingSample::Overlapping => "overlapping",
                RatingSample::Unassisted => "unassisted",
            };
            let condition = owner_condition(owners, "owner", 1);
            let sql = format!(
                "SELECT body FROM feedback WHERE {column} = 1{condition} ORDER BY id DESC \
                 LIMIT {limit}"
            );
            let rows = bind_owner(sqlx::query(&sql), owners)
                .fetch_all(self.pool())
                .await
                .map_err(failed)?;
            rows.iter().map(read).collect()
        })
    }
}

/// Waits until no other transaction that changes the queue is running, in any process. The first
/// statement of such a transaction: which of equal answers is an item, and who judged it, follows
/// from rows that another one may be changing.
pub(super) async fn take_turn(connection: &mut AnyConnection) -> Result<(), StoreError> {
    let query = sqlx::query("UPDATE queue_turn SET turn = turn + 1");
    query.execute(connection).await.map(drop).map_err(failed)
}

/// Binds an answer and an annotator as parameters 1 to 4.
fn bind_annotator<'q>(
    query: SqlQuery<'q>,
    answer: &'q ChoiceId,
    annotator: &'q AnnotatorId,
) -> SqlQuery<'q> {
    query
        .bind(&answer.completion_id)
        .bind(answer.choice as i64)
        .bind(&annotator.name)
        .bind(&annotator.owner)
}

/// Returns the annotator's running lease.
async fn running_lease(
    connection: &mut AnyConnection,
    wish: &LeaseRequest,
) -> Result<Option<Lease>, StoreError> {
    let sql = format!(
        "SELECT {LEASED} FROM leases l JOIN queue q ON q.completion_id = l.completion_id AND \
         q.choice = l.choice \
         WHERE l.annotator = $1 AND l.annotator_owner = $2 AND l.state = 'leased' AND l.expires > \
         $3 AND q.wanted > 0{} \
         ORDER BY l.expires LIMIT 1",
        owner_condition(&wish.owners, "q.owner", 4)
    );
    query_lease(connection, &sql, wish).await
}

/// Finds the first answer of a queue that the annotator neither judged nor skipped and that needs
/// another annotator.
async fn first_open(
    connection: &mut AnyConnection,
    wish: &LeaseRequest,
    unassisted: bool,
) -> Result<Option<Lease>, StoreError> {
    let leases_of_item = leases_of_item("q");
    let sql = format!(
        "SELECT {LEASED} FROM queue q WHERE q.wanted > 0 AND q.unassisted = {}{} \
         AND q.wanted > (SELECT count(*) {leases_of_item} l.state = 'leased' AND l.expires > $3) \
         AND NOT EXISTS (SELECT 1 {leases_of_item} l.annotator = $1 AND l.annotator_owner = $2 AND \
         l.state <> 'leased') ORDER BY q.rank DESC LIMIT 1",
        i64::from(unassisted),
        owner_condition(&wish.owners, "q.owner", 4)
    );
    query_lease(connection, &sql, wish).await
}

/// Runs a query with the parameters annotator name, annotator owner, current time and, if it is a
/// single one, the owner of the answers; returns the lease found.
async fn query_lease(
    connection: &mut AnyConnection,
    sql: &str,
    wish: &LeaseRequest,
) -> Result<Option<Lease>, StoreError> {
    let query = sqlx::query(sql)
        .bind(&wish.annotator.name)
        .bind(&wish.annotator.owner)
        .bind(wish.now as i64);
    let row = bind_owner(query, &wish.owners)
        .fetch_optional(&mut *connection)
        .await
        .map_err(failed)?;
    row.map(|row| read_lease(&row, wish.until))
        .transpose()
        .map_err(failed)
}

fn read_choice_id(row: &AnyRow) -> Result<ChoiceId, sqlx::Error> {
    Ok(ChoiceId {
        completion_id: row.try_get(0)?,
        choice: row.try_get::<i64, _>(1)? as usize,
    })
}

fn read_lease(row: &AnyRow, expires: u64) -> Result<Lease, sqlx::Error> {
    let yes = |column| row.try_get::<i64, _>(column).map(|number| number == 1);
    Ok(Lease {
        answer: read_choice_id(row)?,
        unassisted: yes(2)?,
        overlap: yes(3)?,
        expires,
    })
}

/// SQL that selects the leases of the items in `queue`, up to a further condition.
fn leases_of_item(queue: &str) -> String {
    format!(
        "FROM leases l WHERE l.completion_id = {queue}.completion_id AND l.choice = {queue}.choice \
         AND"
    )
}

async fn end_lease(
    connection: &mut AnyConnection,
    what: &str,
    answer: &ChoiceId,
    annotator: &AnnotatorId,
) -> Result<bool, StoreError> {
    let sql = format!(
        "{what} WHERE completion_id = $1 AND choice = $2 AND annotator = $3 AND annotator_owner = \
         $4 AND state = 'leased'"
    );
    let query = bind_annotator(sqlx::query(&sql), answer, annotator);
    Ok(query
        .execute(&mut *connection)
        .await
        .map_err(failed)?
        .rows_affected()
        > 0)
}

/// Digest of a record's answer in the queue.
pub(super) fn record_digest(record: &Feedback) -> String {
    item_digest(
        &record.owner,
        record.image,
        &record.prompt,
        &record.response,
    )
}

/// Inserts an answer into the queue unless it is there. If another completion has the same answer
/// in the queue, the new entry waits behind it.
pub(super) async fn enqueue(
    connection: &mut AnyConnection,
    entry: &QueueEntry,
) -> Result<(), StoreError> {
    // Selecting from receipts leaves out entries whose receipt was removed meanwhile.
    let sql = "INSERT INTO queue (completion_id, choice, unassisted, overlap, rank, digest, \
               wanted, owner) SELECT id, $2, $3, $4, $5, $6, \
               CASE WHEN EXISTS (SELECT 1 FROM queue WHERE digest = $6 AND wanted > -2) THEN -2 \
               ELSE $7 END, owner \
               FROM receipts WHERE id = $1 ON CONFLICT DO NOTHING";
    let query = sqlx::query(sql)
        .bind(&entry.completion_id)
        .bind(entry.choice as i64)
        .bind(i64::from(entry.unassisted));
    let query = query
        .bind(i64::from(entry.overlap))
        .bind(entry.rank)
        .bind(&entry.digest)
        .bind(1 + i64::from(entry.overlap));
    if query
        .execute(&mut *connection)
        .await
        .map_err(failed)?
        .rows_affected()
        > 0
    {
        let answer = ChoiceId {
            completion_id: entry.completion_id.clone(),
            choice: entry.choice,
        };
        add_earlier_judgments(connection, &answer).await?;
    }
    Ok(())
}

/// Adds earlier judgments of an item's answer to it, and updates the number still wanted.
async fn add_earlier_judgments(
    connection: &mut AnyConnection,
    item: &ChoiceId,
) -> Result<(), StoreError> {
    let sql = "INSERT INTO leases (completion_id, choice, annotator, annotator_owner, state, \
               expires) \
               SELECT DISTINCT q.completion_id, q.choice, f.annotator, f.annotator_owner, \
               'outside', 0 FROM queue q JOIN feedback f ON f.digest = q.digest \
               WHERE q.completion_id = $1 AND q.choice = $2 AND q.wanted > -2 AND f.annotator IS \
               NOT NULL ON CONFLICT DO NOTHING";
    let query = sqlx::query(sql)
        .bind(&item.completion_id)
        .bind(item.choice as i64);
    if query
        .execute(&mut *connection)
        .await
        .map_err(failed)?
        .rows_affected()
        > 0
    {
        count_judges(connection, item).await?;
    }
    Ok(())
}

/// Updates the number of judgments that an item still needs. Items skipped too often keep their
/// state.
async fn count_judges(connection: &mut AnyConnection, item: &ChoiceId) -> Result<(), StoreError> {
    let count = format!(
        "SELECT count(*) {} l.state IN ('done', 'outside')",
        leases_of_item("queue")
    );
    let sql = format!(
        "UPDATE queue SET wanted = CASE WHEN ({count}) > overlap THEN 0 ELSE 1 + overlap - \
         ({count}) END \
         WHERE completion_id = $1 AND choice = $2 AND wanted >= 0"
    );
    let query = sqlx::query(&sql)
        .bind(&item.completion_id)
        .bind(item.choice as i64);
    query
        .execute(&mut *connection)
        .await
        .map(drop)
        .map_err(failed)
}

/// Returns the item that a record judges: that of the same answer in any completion, or else that
/// of its own completion.
async fn find_item(
    connection: &mut AnyConnection,
    record: &Feedback,
) -> Result<Option<ChoiceId>, StoreError> {
    let sql = "SELECT completion_id, choice FROM queue WHERE digest = $1 AND wanted > -2 UNION ALL \
               SELECT completion_id, choice FROM queue WHERE completion_id = $2 AND choice = $3 \
               AND digest IS NULL LIMIT 1";
    let choice = record
        .choice
        .map(|choice| choice as i64)
        .unwrap_or_default();
    let query = sqlx::query(sql)
        .bind(record_digest(record))
        .bind(record.completion_id.as_deref().unwrap_or_default())
        .bind(choice);
    let row = query
        .fetch_optional(&mut *connection)
        .await
        .map_err(failed)?;
    row.map(|row| read_choice_id(&row))
        .transpose()
        .map_err(failed)
}

/// Counts a judgment by a named annotator; a second one by the same annotator changes nothing.
/// Judgments of answers that the queue did not lease have the state `outside` and are not sampled
/// for agreement and recall.
pub(super) async fn count_judgment(
    connection: &mut AnyConnection,
    record: &Feedback,
) -> Result<(), StoreError> {
    let Some(annotator) = annotator_of(record) else {
        return Ok(());
    };
    let Some(item) = find_item(connection, record).await? else {
        return Ok(());
    };
    let sql = "INSERT INTO leases (completion_id, choice, annotator, annotator_owner, state, \
               expires) VALUES ($1, $2, $3, $4, 'outside', 0) \
               ON CONFLICT (completion_id, choice, annotator_owner, annotator) DO UPDATE SET state \
               = CASE leases.state WHEN 'leased' THEN 'done' ELSE 'outside' END \
               WHERE leases.state IN ('leased', 'skipped')";
    let query = bind_annotator(sqlx::query(sql), &item, &annotator);
    if query
        .execute(&mut *connection)
        .await
        .map_err(failed)?
        .rows_affected()
        > 0
    {
        count_judges(connection, &item).await?;
    }
    Ok(())
}

/// Annotator of a record, if named.
fn annotator_of(record: &Feedback) -> Option<AnnotatorId> {
    Some(AnnotatorId {
        owner: record.annotator_owner.clone(),
        name: record.annotator.clone()?,
    })
}

/// Takes back the judgment of a removed record. Its item is open again, for the same annotator too,
/// unless enough others judged it.
pub(super) async fn reopen(
    connection: &mut AnyConnection,
    record: &Feedback,
) -> Result<(), StoreError> {
    let Some(annotator) = annotator_of(record) else {
        return Ok(());
    };
    let Some(item) = find_item(connection, record).await? else {
        return Ok(());
    };
    // Another record by the annotator about the same answer still counts.
    let sql = "DELETE FROM leases WHERE completion_id = $1 AND choice = $2 AND annotator = $3 AND \
               annotator_owner = $4 \
               AND state IN ('done', 'outside') \
               AND NOT EXISTS (SELECT 1 FROM feedback f WHERE f.digest = $5 AND f.annotator = $3 \
               AND f.annotator_owner = $4)";
    let query = bind_annotator(sqlx::query(sql), &item, &annotator).bind(record_digest(record));
    if query
        .execute(&mut *connection)
        .await
        .map_err(failed)?
        .rows_affected()
        > 0
    {
        count_judges(connection, &item).await?;
    }
    Ok(())
}

/// Removes the leases that annotators of this name hold or held on some owners' answers. Judged
/// items stay judged.
pub(super) async fn remove_leases(
    connection: &mut AnyConnection,
    annotator: &str,
    owners: &Owners,
) -> Result<(), StoreError> {
    let sql = format!(
        "DELETE FROM leases WHERE annotator = $1 AND EXISTS (SELECT 1 FROM queue q \
         WHERE q.completion_id = leases.completion_id AND q.choice = leases.choice{})",
        owner_condition(owners, "q.owner", 2)
    );
    bind_owner(sqlx::query(&sql).bind(annotator), owners)
        .execute(&mut *connection)
        .await
        .map(drop)
        .map_err(failed)
}

/// Item that is removed while equal answers of other completions wait behind it.
pub(super) struct LeavingItem {
    digest: String,
    wanted: i64,
    overlap: i64,
}

/// Returns the items of some receipts that equal answers wait behind.
pub(super) async fn items_with_repeats(
    connection: &mut AnyConnection,
    condition: &str,
    values: &[&str],
) -> Result<Vec<LeavingItem>, StoreError> {
    let sql = format!(
        "SELECT q.digest, q.wanted, q.overlap FROM queue q WHERE q.completion_id IN (SELECT id \
         FROM receipts WHERE {condition}) AND q.wanted > -2 \
         AND EXISTS (SELECT 1 FROM queue behind WHERE behind.digest = q.digest AND behind.wanted = \
         -2)"
    );
    let query = values
        .iter()
        .fold(sqlx::query(&sql), |query, value| query.bind(*value));
    let rows = query.fetch_all(&mut *connection).await.map_err(failed)?;
    let item = |row: &AnyRow| {
        Ok(LeavingItem {
            digest: row.try_get(0)?,
            wanted: row.try_get(1)?,
            overlap: row.try_get(2)?,
        })
    };
    rows.iter()
        .map(item)
        .collect::<Result<_, _>>()
        .map_err(failed)
}

/// Makes an equal answer the item in place of a removed one.
pub(super) async fn promote(
    connection: &mut AnyConnection,
    removed: &LeavingItem,
) -> Result<(), StoreError> {
    let sql = "SELECT completion_id, choice FROM queue WHERE digest = $1 AND wanted = -2 LIMIT 1";
    let row = sqlx::query(sql)
        .bind(&removed.digest)
        .fetch_optional(&mut *connection)
        .await
        .map_err(failed)?;
    let Some(next) = row
        .map(|row| read_choice_id(&row))
        .transpose()
        .map_err(failed)?
    else {
        return Ok(());
    };
    // Items skipped too often keep their state.
    let wanted = if removed.wanted < 0 {
        removed.wanted
    } else {
        1 + removed.overlap
    };
    let sql = "UPDATE queue SET wanted = $3, overlap = $4 WHERE completion_id = $1 AND choice = $2";
    let query = sqlx::query(sql)
        .bind(&next.completion_id)
        .bind(next.choice as i64)
        .bind(wanted)
        .bind(removed.overlap);
    query.execute(&mut *connection).await.map_err(failed)?;
    add_earlier_judgments(connection, &next).await
}
