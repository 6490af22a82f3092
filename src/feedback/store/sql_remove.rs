//! Removal of rows on SQLite or PostgreSQL, with its effects on the annotation queue.

use sqlx::{AnyConnection, Row as _, any::AnyRow};

use super::{
    AnnotatorTarget, RemovalCounts, RemovalTarget, StoreError,
    sql::{OLDEST, bind_owner, body, failed, json, owner_condition, read},
    sql_queue::{items_with_repeats, promote, remove_leases, reopen},
};
use crate::feedback::record::Feedback;

pub(super) async fn remove(
    connection: &mut AnyConnection,
    target: &RemovalTarget,
) -> Result<RemovalCounts, StoreError> {
    match target {
        RemovalTarget::Feedback(id, owners) => {
            let record: Option<Feedback> =
                body(connection, "SELECT body FROM feedback WHERE id = $1", id).await?;
            match record.filter(|record| owners.contain(&record.owner)) {
                Some(record) => Ok(RemovalCounts {
                    feedback: remove_record(connection, &record).await?,
                    ..RemovalCounts::default()
                }),
                None => Ok(RemovalCounts::default()),
            }
        }
        RemovalTarget::User(user, owners) => {
            let condition = format!("user_name = $1{}", owner_condition(owners, "owner", 2));
            let values: Vec<&str> = [Some(user.as_str()), owners.name()]
                .into_iter()
                .flatten()
                .collect();
            let receipts = remove_receipts(connection, &condition, &values).await?;
            Ok(RemovalCounts {
                receipts,
                feedback: remove_rows(connection, "feedback", &condition, &values).await?,
                unnamed: 0,
            })
        }
        RemovalTarget::Annotator(target) => forget(connection, target).await,
        RemovalTarget::ReceiptsBefore(time, limit) => {
            let oldest = format!(
                "id IN (SELECT id FROM receipts WHERE created < CAST($1 AS BIGINT) ORDER BY \
                 created, id LIMIT {limit})"
            );
            Ok(RemovalCounts {
                receipts: remove_receipts(connection, &oldest, &[&time.to_string()]).await?,
                ..RemovalCounts::default()
            })
        }
        RemovalTarget::OldestReceipts(owner, bytes) => {
            let mut receipts = remove_oldest(connection, owner, *bytes, NOBODY_JUDGES).await?;
            if receipts == 0 {
                receipts = remove_oldest(connection, owner, *bytes, "").await?;
            }
            Ok(RemovalCounts {
                receipts,
                ..RemovalCounts::default()
            })
        }
    }
}

/// SQL condition that no answer of receipt `r` is judged or leased.
const NOBODY_JUDGES: &str = " AND NOT EXISTS (SELECT 1 FROM feedback f WHERE f.completion_id = \
                             r.id) \
                             AND NOT EXISTS (SELECT 1 FROM leases l WHERE l.completion_id = r.id \
                             AND l.state = 'leased')";

async fn remove_oldest(
    connection: &mut AnyConnection,
    owner: &str,
    bytes: u64,
    condition: &str,
) -> Result<u64, StoreError> {
    let sql = format!(
        "SELECT id, bytes + image_bytes FROM receipts r WHERE owner = $1{condition} ORDER BY \
         created, id LIMIT {OLDEST}"
    );
    let rows = sqlx::query(&sql)
        .bind(owner)
        .fetch_all(&mut *connection)
        .await
        .map_err(failed)?;
    let size = |row: &AnyRow| {
        Ok((
            row.try_get::<String, _>(0)?,
            row.try_get::<i64, _>(1)? as u64,
        ))
    };
    let oldest: Vec<(String, u64)> = rows
        .iter()
        .map(size)
        .collect::<Result<_, _>>()
        .map_err(failed)?;
    let mut held = 0;
    let ids: Vec<&str> = oldest
        .iter()
        .take_while(|(_, size)| {
            let wanted = held < bytes;
            held += size;
            wanted
        })
        .map(|(id, _)| id.as_str())
        .collect();
    if ids.is_empty() {
        return Ok(0);
    }
    let parameters: Vec<String> = (1..=ids.len()).map(|number| format!("${number}")).collect();
    remove_receipts(
        connection,
        &format!("id IN ({})", parameters.join(", ")),
        &ids,
    )
    .await
}

async fn remove_record(
    connection: &mut AnyConnection,
    record: &Feedback,
) -> Result<u64, StoreError> {
    let removed = remove_rows(connection, "feedback", "id = $1", &[&record.id]).await?;
    reopen(connection, record).await?;
    Ok(removed)
}

/// Removes some records of an annotator, or their name on them; with the last of them also the
/// annotator's leases.
async fn forget(
    connection: &mut AnyConnection,
    target: &AnnotatorTarget,
) -> Result<RemovalCounts, StoreError> {
    let AnnotatorTarget {
        name,
        owners,
        records,
        limit,
    } = target;
    let condition = format!("annotator = $1{}", owner_condition(owners, "owner", 2));
    let sql = format!("SELECT body FROM feedback WHERE {condition} ORDER BY id LIMIT {limit}");
    let rows = bind_owner(sqlx::query(&sql).bind(name), owners)
        .fetch_all(&mut *connection)
        .await
        .map_err(failed)?;
    let found: Vec<Feedback> = rows.iter().map(read).collect::<Result<_, _>>()?;
    let mut removed = RemovalCounts::default();
    for mut record in found {
        if *records {
            removed.feedback += remove_record(connection, &record).await?;
            continue;
        }
        record.forget_annotator();
        let query = sqlx::query(
            "UPDATE feedback SET annotator = NULL, annotator_owner = '', body = $2 WHERE id = $1",
        );
        let done = query
            .bind(&record.id)
            .bind(json(&record)?)
            .execute(&mut *connection)
            .await
            .map_err(failed)?;
        removed.unnamed += done.rows_affected();
    }
    if removed.feedback + removed.unnamed < u64::from(*limit) {
        remove_leases(connection, name, owners).await?;
    }
    Ok(removed)
}

/// Removes receipts with their queue entries. Equal answers of other completions take over.
async fn remove_receipts(
    connection: &mut AnyConnection,
    condition: &str,
    values: &[&str],
) -> Result<u64, StoreError> {
    let items = items_with_repeats(connection, condition, values).await?;
    let removed = remove_rows(connection, "receipts", condition, values).await?;
    for item in items {
        promote(connection, &item).await?;
    }
    Ok(removed)
}

/// Removes the rows that match `condition`, and lists their images as doomed.
async fn remove_rows(
    connection: &mut AnyConnection,
    table: &str,
    condition: &str,
    values: &[&str],
) -> Result<u64, StoreError> {
    let note = format!(
        "INSERT INTO doomed_images (image) SELECT DISTINCT image FROM {table} WHERE {condition} ON \
         CONFLICT DO NOTHING"
    );
    let query = values
        .iter()
        .fold(sqlx::query(&note), |query, value| query.bind(*value));
    query.execute(&mut *connection).await.map_err(failed)?;
    let delete = format!("DELETE FROM {table} WHERE {condition}");
    let query = values
        .iter()
        .fold(sqlx::query(&delete), |query, value| query.bind(*value));
    Ok(query
        .execute(&mut *connection)
        .await
        .map_err(failed)?
        .rows_affected())
}
