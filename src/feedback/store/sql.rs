//! SQLite and PostgreSQL, in one dialect of both.

use std::{borrow::Cow, future::Future, path::Path, str::FromStr, time::Duration};

use futures_util::FutureExt;
use serde::{Serialize, de::DeserializeOwned};
use sqlx::{
    Any, AnyConnection, AnyPool, Executor, Row as _,
    any::{AnyConnectOptions, AnyPoolOptions, AnyRow, install_default_drivers},
    migrate::{Migration, MigrationType, Migrator},
    pool::PoolConnection,
    query::Query,
};

use super::{
    Answer, Idempotency, Inserted, Page, Removed, Row, Stats, Store, StoreError, Target,
    sql_queue::{digest, enqueue, heads_with_repeats, judged, promote, reopen},
};
use crate::feedback::record::{Feedback, ImageHash, Receipt, Source};

/// What the tables looked like, version by version. A version, once shipped, stays as it is.
const MIGRATIONS: [(i64, &str, &str); 3] = [
    (1, "records", include_str!("migrations/0001_records.sql")),
    (2, "queue", include_str!("migrations/0002_queue.sql")),
    (3, "repeats", include_str!("migrations/0003_repeats.sql")),
];

/// Connections to the database.
const CONNECTIONS: u32 = 8;

/// How long a statement waits for a connection, and SQLite for another process that writes.
const PATIENCE: Duration = Duration::from_secs(10);

/// Records and receipts in a database.
pub struct SqlStore {
    pool: AnyPool,
}

impl SqlStore {
    /// Opens `sqlite:PATH` (made where it is missing, folders too) or `postgres://...`, and brings its tables up to date.
    ///
    /// # Errors
    /// When it cannot be opened, or a later version of this program made its tables.
    pub async fn open(url: &str) -> Result<Self, StoreError> {
        let fail = |error: sqlx::Error| StoreError::Unavailable(error.to_string());
        install_default_drivers();
        let sqlite = url.strip_prefix("sqlite:").map(|path| path.trim_start_matches("//"));
        let (url, pragmas) = match sqlite {
            None => (Cow::Borrowed(url), DURABLE_POSTGRES),
            Some(path) => {
                if let Some(folder) = Path::new(path).parent() {
                    std::fs::create_dir_all(folder).map_err(|e| StoreError::Unavailable(format!("{}: {e}", folder.display())))?;
                }
                (Cow::Owned(format!("sqlite:{path}?mode=rwc")), DURABLE_SQLITE)
            }
        };
        let options = AnyConnectOptions::from_str(&url).map_err(fail)?;
        let pool = AnyPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(PATIENCE)
            .after_connect(move |connection, _| async move { connection.execute(pragmas).await.map(drop) }.boxed());
        let pool = pool.connect_with(options).await.map_err(fail)?;
        let migrations = MIGRATIONS.iter().map(|&(version, description, sql)| {
            Migration::new(version, Cow::Borrowed(description), MigrationType::Simple, Cow::Borrowed(sql), false)
        });
        let migrator = Migrator { migrations: migrations.collect(), ..Migrator::DEFAULT };
        migrator.run(&pool).await.map_err(|e| StoreError::Unavailable(e.to_string()))?;
        Ok(Self { pool })
    }

    /// Closes all connections.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    pub(super) fn pool(&self) -> &AnyPool {
        &self.pool
    }

    /// Runs `work` in a transaction.
    pub(super) async fn within<T, F>(&self, work: impl FnOnce(Unit) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<(T, Unit), StoreError>>,
    {
        let mut unit = Unit { connection: self.pool.acquire().await.map_err(failed)?, done: false };
        unit.connection.execute("BEGIN").await.map_err(failed)?;
        let (result, mut unit) = work(unit).await?;
        unit.connection.execute("COMMIT").await.map_err(failed)?;
        unit.done = true;
        Ok(result)
    }

    async fn body<T: DeserializeOwned>(&self, sql: &str, id: &str) -> Result<Option<T>, StoreError> {
        let mut connection = self.pool.acquire().await.map_err(failed)?;
        body(&mut connection, sql, id).await
    }

    pub(super) async fn counts(&self, sql: &str) -> Result<Vec<(String, u64)>, StoreError> {
        let rows = sqlx::query(sql).fetch_all(&self.pool).await.map_err(failed)?;
        let count = |row: &AnyRow| Ok((row.try_get(0)?, row.try_get::<i64, _>(1)? as u64));
        rows.iter().map(count).collect::<Result<_, _>>().map_err(failed)
    }
}

/// A connection in a transaction. Unless that is done, the connection is closed: after a commit that failed for want of space sqlx believes the
/// transaction to be open, or SQLite does, and what is then committed on the connection is not.
pub(super) struct Unit {
    pub(super) connection: PoolConnection<Any>,
    done: bool,
}

impl Drop for Unit {
    fn drop(&mut self) {
        if !self.done {
            self.connection.close_on_drop();
        }
    }
}

/// A transaction is on the disk when it has ended; readers do not wait for writers.
const DURABLE_SQLITE: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA busy_timeout = 10000";
/// As is PostgreSQL's own default; stricter settings are left alone.
const DURABLE_POSTGRES: &str = "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";

impl Store for SqlStore {
    fn insert<'a>(&'a self, rows: &'a [Row]) -> Answer<'a, Vec<Inserted>> {
        self.within(async move |mut unit| {
            let mut inserted = Vec::with_capacity(rows.len());
            for row in rows {
                inserted.push(insert(&mut unit.connection, row).await?);
            }
            Ok((inserted, unit))
        })
        .boxed()
    }

    fn feedback<'a>(&'a self, id: &'a str) -> Answer<'a, Option<Feedback>> {
        self.body("SELECT body FROM feedback WHERE id = $1", id).boxed()
    }

    fn by_key<'a>(&'a self, key: &'a Idempotency) -> Answer<'a, Option<Inserted>> {
        async move {
            let row = with_key(key).fetch_optional(&self.pool).await.map_err(failed)?;
            row.map(|row| before(&row, key)).transpose()
        }
        .boxed()
    }

    fn receipt<'a>(&'a self, id: &'a str) -> Answer<'a, Option<Receipt>> {
        self.body("SELECT body FROM receipts WHERE id = $1", id).boxed()
    }

    fn receipts(&self, limit: u32) -> Answer<'_, Vec<Receipt>> {
        async move {
            let sql = format!("SELECT body FROM receipts ORDER BY created DESC, id DESC LIMIT {limit}");
            let rows = sqlx::query(&sql).fetch_all(&self.pool).await.map_err(failed)?;
            rows.iter().map(read).collect()
        }
        .boxed()
    }

    fn page<'a>(&'a self, page: &'a Page) -> Answer<'a, Vec<Feedback>> {
        async move {
            let Page { filter, after, limit, newest_first } = page;
            let (compare, order) = if *newest_first { ("<", "DESC") } else { (">", "ASC") };
            let conditions = [
                ("kind =", filter.kind.map(|k| k.name())),
                ("source =", filter.source.map(Source::name)),
                ("user_name =", filter.user.as_deref()),
                ("annotator =", filter.annotator.as_deref()),
                ("completion_id =", filter.completion_id.as_deref()),
                (&format!("id {compare}"), after.as_deref()),
            ];
            let given: Vec<(&str, &str)> = conditions.into_iter().filter_map(|(what, value)| Some((what, value?))).collect();
            let conditions: String = given.iter().enumerate().map(|(i, (what, _))| format!(" AND {what} ${}", i + 1)).collect();
            let sql = format!("SELECT body FROM feedback WHERE 1 = 1{conditions} ORDER BY id {order} LIMIT {limit}");
            let query = given.iter().fold(sqlx::query(&sql), |query, (_, value)| query.bind(*value));
            let rows = query.fetch_all(&self.pool).await.map_err(failed)?;
            rows.iter().map(read).collect()
        }
        .boxed()
    }

    fn remove<'a>(&'a self, target: &'a Target) -> Answer<'a, Removed> {
        self.within(async move |mut unit| {
            let connection = &mut unit.connection;
            let removed = match target {
                Target::Feedback(id) => {
                    let record: Option<Feedback> = body(connection, "SELECT body FROM feedback WHERE id = $1", id).await?;
                    let feedback = remove(connection, "feedback", "id = $1", id).await?;
                    let receipts = match record {
                        // The item waits again, and needs its receipt.
                        Some(record) if reopen(connection, &record).await? => 0,
                        Some(Feedback { completion_id: Some(completion), .. }) => {
                            remove_receipts(connection, "id = $1", &completion).await?
                        }
                        _ => 0,
                    };
                    Removed { receipts, feedback }
                }
                Target::User(user) => {
                    let receipts = remove_receipts(connection, "user_name = $1", user).await?;
                    Removed { receipts, feedback: remove(connection, "feedback", "user_name = $1", user).await? }
                }
                Target::ReceiptsBefore(time, limit) => {
                    let oldest =
                        format!("id IN (SELECT id FROM receipts WHERE created < CAST($1 AS BIGINT) ORDER BY created, id LIMIT {limit})");
                    Removed { receipts: remove_receipts(connection, &oldest, &time.to_string()).await?, feedback: 0 }
                }
            };
            Ok((removed, unit))
        })
        .boxed()
    }

    fn doomed(&self, limit: u32) -> Answer<'_, Vec<ImageHash>> {
        async move {
            let sql = format!("SELECT image FROM doomed_images LIMIT {limit}");
            let rows = sqlx::query(&sql).fetch_all(&self.pool).await.map_err(failed)?;
            let image = |row: &AnyRow| row.try_get::<String, _>(0).map_err(failed)?.parse().map_err(|e| StoreError::Failed(format!("{e}")));
            rows.iter().map(image).collect()
        }
        .boxed()
    }

    fn refers(&self, image: ImageHash) -> Answer<'_, bool> {
        async move {
            let sql = "SELECT 1 FROM feedback WHERE image = $1 UNION ALL SELECT 1 FROM receipts WHERE image = $1 LIMIT 1";
            let row = sqlx::query(sql).bind(image.to_string()).fetch_optional(&self.pool).await.map_err(failed)?;
            Ok(row.is_some())
        }
        .boxed()
    }

    fn spare(&self, image: ImageHash) -> Answer<'_, ()> {
        async move {
            let query = sqlx::query("DELETE FROM doomed_images WHERE image = $1").bind(image.to_string());
            query.execute(&self.pool).await.map(drop).map_err(failed)
        }
        .boxed()
    }

    fn stats(&self) -> Answer<'_, Stats> {
        async move {
            let feedback = self.counts("SELECT kind, count(*) FROM feedback GROUP BY kind").await?;
            let sources = self.counts("SELECT source, count(*) FROM feedback GROUP BY source").await?;
            let receipts = self.counts("SELECT 'receipts', count(*) FROM receipts").await?;
            Ok(Stats {
                feedback: feedback.into_iter().collect(),
                sources: sources.into_iter().collect(),
                receipts: receipts.first().map_or(0, |(_, n)| *n),
            })
        }
        .boxed()
    }
}

async fn body<T: DeserializeOwned>(connection: &mut AnyConnection, sql: &str, id: &str) -> Result<Option<T>, StoreError> {
    let row = sqlx::query(sql).bind(id).fetch_optional(connection).await.map_err(failed)?;
    row.map(|row| read(&row)).transpose()
}

async fn insert(connection: &mut AnyConnection, row: &Row) -> Result<Inserted, StoreError> {
    let (record, key) = match row {
        Row::Receipt(receipt) => {
            let sql = "INSERT INTO receipts (id, created, image, user_name, body) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING";
            let query = sqlx::query(sql).bind(&receipt.id).bind(receipt.created as i64).bind(receipt.image.to_string());
            query.bind(&receipt.user).bind(json(receipt)?).execute(&mut *connection).await.map_err(failed)?;
            return Ok(Inserted::New);
        }
        Row::Queue(entry) => return enqueue(connection, entry).await.map(|()| Inserted::New),
        Row::Feedback(record, key) => (record, key),
    };
    let sql = "INSERT INTO feedback (id, created, completion_id, image, user_name, annotator, kind, source, idempotency_key, idempotency_digest, body, \
               overlapping, unassisted, digest) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) ON CONFLICT DO NOTHING";
    let query = sqlx::query(sql).bind(&record.id).bind(record.created as i64).bind(&record.completion_id).bind(record.image.to_string());
    let query = query.bind(&record.user).bind(&record.annotator).bind(record.kind.name()).bind(record.source.name());
    let query = query.bind(key.as_ref().map(|k| &k.key)).bind(key.as_ref().map(|k| &k.digest)).bind(json(record)?);
    let (overlapping, unassisted) = record.queued.map_or((false, false), |queued| (queued.overlap, record.unassisted));
    let query = query.bind(i64::from(overlapping)).bind(i64::from(unassisted)).bind(digest(record));
    let done = query.execute(&mut *connection).await.map_err(failed)?;
    if done.rows_affected() > 0 {
        judged(connection, record).await?;
    }
    match key {
        _ if done.rows_affected() > 0 => Ok(Inserted::New),
        Some(key) => match with_key(key).fetch_optional(&mut *connection).await.map_err(failed)? {
            Some(row) => before(&row, key),
            None => Ok(Inserted::Conflict),
        },
        None => Ok(Inserted::Conflict),
    }
}

fn with_key(key: &Idempotency) -> Query<'_, Any, sqlx::any::AnyArguments<'_>> {
    sqlx::query("SELECT body, idempotency_digest FROM feedback WHERE idempotency_key = $1").bind(&key.key)
}

fn before(row: &AnyRow, key: &Idempotency) -> Result<Inserted, StoreError> {
    let same = row.try_get::<String, _>(1).map_err(failed)? == key.digest;
    if same { Ok(Inserted::Before(Box::new(read(row)?))) } else { Ok(Inserted::Conflict) }
}

/// Removes receipts and their places in the queue, which the same answers of other completions take.
async fn remove_receipts(connection: &mut AnyConnection, condition: &str, value: &str) -> Result<u64, StoreError> {
    let heads = heads_with_repeats(connection, condition, value).await?;
    let removed = remove(connection, "receipts", condition, value).await?;
    for head in heads {
        promote(connection, &head).await?;
    }
    Ok(removed)
}

/// Removes the rows for which `condition` holds, and notes their images.
async fn remove(connection: &mut AnyConnection, table: &str, condition: &str, value: &str) -> Result<u64, StoreError> {
    let note = format!("INSERT INTO doomed_images (image) SELECT DISTINCT image FROM {table} WHERE {condition} ON CONFLICT DO NOTHING");
    sqlx::query(&note).bind(value).execute(&mut *connection).await.map_err(failed)?;
    let delete = format!("DELETE FROM {table} WHERE {condition}");
    Ok(sqlx::query(&delete).bind(value).execute(&mut *connection).await.map_err(failed)?.rows_affected())
}

fn json(value: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|e| StoreError::Failed(e.to_string()))
}

/// What the first column says.
pub(super) fn read<T: DeserializeOwned>(row: &AnyRow) -> Result<T, StoreError> {
    let body: &str = row.try_get(0).map_err(failed)?;
    serde_json::from_str(body).map_err(|e| StoreError::Failed(format!("a row cannot be read: {e}")))
}

pub(super) fn failed(error: sqlx::Error) -> StoreError {
    let code = error.as_database_error().and_then(|e| e.code()).unwrap_or_default();
    match (&*code, &error) {
        // SQLITE_FULL, SQLITE_IOERR_WRITE (what it makes of a quota), SQLITE_IOERR_SHMSIZE; PostgreSQL's disk_full.
        ("13" | "778" | "4874" | "53100", _) => StoreError::Full,
        (
            _,
            sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed,
        ) => StoreError::Unavailable(error.to_string()),
        // PostgreSQL: connection exceptions, and a server that starts or stops. SQLite: another process writes for too long.
        (code, _) if code.starts_with("08") || code.starts_with("57P") || matches!(code, "5" | "517" | "53300") => {
            StoreError::Unavailable(error.to_string())
        }
        _ => StoreError::of(&error),
    }
}
