//! SQLite and PostgreSQL, in one dialect of both.

use std::{
    borrow::Cow,
    future::Future,
    path::{Path, PathBuf},
    str::FromStr,
    sync::OnceLock,
    time::Duration,
};

use futures_util::FutureExt;
use serde::{Serialize, de::DeserializeOwned};
use sqlx::{
    Any, AnyConnection, AnyPool, Connection, Executor, Row as _,
    any::{AnyConnectOptions, AnyPoolOptions, AnyRow, install_default_drivers},
    migrate::{Migration, MigrationType, Migrator},
    pool::PoolConnection,
    query::Query,
};

use super::{
    Idempotency, InsertOutcome, OwnerBytes, Owners, RecordPage, RemovalCounts, RemovalTarget,
    Store, StoreEntry, StoreError, StoreFuture, StoreStats,
    sql_queue::{digest, enqueue, judged},
    sql_remove::remove,
};
use crate::{
    feedback::record::{Feedback, FeedbackSource, ImageHash, Receipt},
    util::private_files,
};

/// Migrations of the tables, version by version. A version, once shipped, stays as it is.
const MIGRATIONS: [(i64, &str, &str); 4] = [
    (1, "records", include_str!("migrations/0001_records.sql")),
    (2, "queue", include_str!("migrations/0002_queue.sql")),
    (3, "repeats", include_str!("migrations/0003_repeats.sql")),
    (4, "owners", include_str!("migrations/0004_owners.sql")),
];

/// Connections to the database.
const CONNECTIONS: u32 = 8;

/// Most receipts that [`RemovalTarget::OldestReceipts`] removes.
pub const OLDEST: u32 = 256;

/// Longest wait of a statement for a connection, and of SQLite for another process that writes.
const PATIENCE: Duration = Duration::from_secs(10);

/// Records and receipts in a database.
pub struct SqlStore {
    pool: AnyPool,
    is_sqlite: bool,
    damage: OnceLock<String>,
}

impl SqlStore {
    /// Opens `sqlite:PATH` (made where it is missing, folders too) or `postgres://...`, and brings
    /// its tables up to date.
    ///
    /// # Errors
    /// When it cannot be opened, or a later version of this program made its tables.
    pub async fn open(url: &str) -> Result<Self, StoreError> {
        let fail = |error: sqlx::Error| StoreError::Unavailable(error.to_string());
        install_default_drivers();
        let sqlite = url
            .strip_prefix("sqlite:")
            .map(|path| PathBuf::from(path.trim_start_matches("//")));
        let pragmas = if sqlite.is_some() {
            DURABLE_SQLITE
        } else {
            DURABLE_POSTGRES
        };
        let options = match &sqlite {
            None => AnyConnectOptions::from_str(url).map_err(fail)?,
            Some(file) => open_sqlite(file)
                .await
                .map_err(|e| StoreError::Unavailable(format!("{}: {e}", file.display())))?,
        };
        let pool = AnyPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(PATIENCE)
            .after_connect(move |connection, _| {
                async move { connection.execute(pragmas).await.map(drop) }.boxed()
            });
        let pool = pool.connect_with(options).await.map_err(fail)?;
        let migrations = MIGRATIONS.iter().map(|&(version, description, sql)| {
            Migration::new(
                version,
                Cow::Borrowed(description),
                MigrationType::Simple,
                Cow::Borrowed(sql),
                false,
            )
        });
        let migrator = Migrator {
            migrations: migrations.collect(),
            ..Migrator::DEFAULT
        };
        let mut first = pool.acquire().await.map_err(fail)?;
        if sqlite.is_some() {
            first.execute(SHORT_LOG).await.map_err(fail)?;
        }
        migrator
            .run(&mut *first)
            .await
            .map_err(|e| StoreError::Unavailable(e.to_string()))?;
        if sqlite.is_some()
            && let Err(error) = overwrite_free_pages(&mut first).await
        {
            tracing::warn!(%error, "what was deleted before may still be in free pages of the \
                                    database; the next start tries again to overwrite it");
        }
        first.close().await.map_err(fail)?;
        Ok(Self {
            pool,
            is_sqlite: sqlite.is_some(),
            damage: OnceLock::new(),
        })
    }

    /// Closes all connections.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    pub(super) fn pool(&self) -> &AnyPool {
        &self.pool
    }

    /// The answer of `work`, noted where it shows that the database is damaged.
    pub(super) fn answer<'a, T: Send + 'a>(
        &'a self,
        work: impl Future<Output = Result<T, StoreError>> + Send + 'a,
    ) -> StoreFuture<'a, T> {
        let note = |result: &Result<T, StoreError>| {
            if let Err(StoreError::Damaged(why)) = result
                && self.damage.set(why.clone()).is_ok()
            {
                tracing::error!(
                    why,
                    "the store of feedback is damaged; mend the database or put a backup in its \
                     place, and start again"
                );
            }
        };
        work.inspect(note).boxed()
    }

    /// Runs `work` in a transaction.
    pub(super) async fn within<T, F>(&self, work: impl FnOnce(Unit) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<(T, Unit), StoreError>>,
    {
        let mut unit = Unit {
            connection: self.pool.acquire().await.map_err(failed)?,
            done: false,
        };
        unit.connection.execute("BEGIN").await.map_err(failed)?;
        let (result, mut unit) = work(unit).await?;
        unit.connection.execute("COMMIT").await.map_err(failed)?;
        unit.done = true;
        Ok(result)
    }

    async fn body<T: DeserializeOwned>(
        &self,
        sql: &str,
        id: &str,
    ) -> Result<Option<T>, StoreError> {
        let mut connection = self.pool.acquire().await.map_err(failed)?;
        body(&mut connection, sql, id).await
    }

    /// Names and counts of whom `owners` admits, who is parameter 1 of `sql` where it is one alone.
    pub(super) async fn counts(
        &self,
        sql: &str,
        owners: &Owners,
    ) -> Result<Vec<(String, u64)>, StoreError> {
        let rows = bind_owner(sqlx::query(sql), owners)
            .fetch_all(&self.pool)
            .await
            .map_err(failed)?;
        let count = |row: &AnyRow| Ok((row.try_get(0)?, row.try_get::<i64, _>(1)? as u64));
        rows.iter()
            .map(count)
            .collect::<Result<_, _>>()
            .map_err(failed)
    }
}

/// Makes sure of the file, of who may read it, and that it is a database. The pool would try again
/// for a while what cannot succeed.
async fn open_sqlite(
    file: &Path,
) -> Result<AnyConnectOptions, Box<dyn std::error::Error + Send + Sync>> {
    if let Some(folder) = file
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        private_files::create_dir(folder)?;
    }
    private_files::create_file(file)?;
    // SQLite gives the others the mode of the first when it makes them.
    for suffix in ["", "-wal", "-shm"] {
        let mut name = file.as_os_str().to_owned();
        name.push(suffix);
        let file = PathBuf::from(name);
        if file.is_dir() {
            continue;
        }
        match private_files::narrow(&file) {
            Ok(false) => {}
            Ok(true) => {
                tracing::info!(file = %file.display(), "other users could read the file, and \
                    cannot any more")
            }
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "other users can read the file, and \
                    its mode cannot be changed")
            }
        }
    }
    // What has a meaning in URLs.
    let path = file
        .display()
        .to_string()
        .replace('%', "%25")
        .replace('?', "%3F");
    let options = AnyConnectOptions::from_str(&format!("sqlite:{path}?mode=rwc"))?;
    let mut connection = AnyConnection::connect_with(&options).await?;
    connection.execute(DURABLE_SQLITE).await?;
    connection.close().await?;
    Ok(options)
}

/// Earlier versions left what was deleted in free pages. Once a database: `user_version` tells.
async fn overwrite_free_pages(connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
    let version: i64 = sqlx::query("PRAGMA user_version")
        .fetch_one(&mut *connection)
        .await?
        .try_get(0)?;
    if version < SCRUBBED {
        connection.execute("VACUUM").await?;
        connection
            .execute(&*format!("PRAGMA user_version = {SCRUBBED}"))
            .await?;
        connection.execute(CHECKPOINT).await?;
    }
    Ok(())
}

/// The condition that a column has an owner that is admitted, who is the parameter of this number;
/// empty where all are.
pub(super) fn owner_condition(owners: &Owners, column: &str, parameter: usize) -> String {
    owners
        .name()
        .map_or_else(String::new, |_| format!(" AND {column} = ${parameter}"))
}

/// Binds the parameter of [`owner_condition`], where it has one.
pub(super) fn bind_owner<'q>(query: SqlQuery<'q>, owners: &'q Owners) -> SqlQuery<'q> {
    match owners.name() {
        Some(owner) => query.bind(owner),
        None => query,
    }
}

/// A query of either database.
pub(super) type SqlQuery<'q> = Query<'q, Any, sqlx::any::AnyArguments<'q>>;

/// A connection in a transaction. Unless that is done, the connection is closed: after a commit
/// that failed for want of space sqlx believes the transaction to be open, or SQLite does, and what
/// is then committed on the connection is not.
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

/// A transaction is on the disk when it has ended; readers do not wait for writers; what is deleted
/// is overwritten.
const DURABLE_SQLITE: &str = "PRAGMA busy_timeout = 10000; PRAGMA journal_mode = WAL; PRAGMA \
                              synchronous = FULL; PRAGMA secure_delete = ON";
/// While the tables are brought up to date, the log is taken over again and again: it takes little
/// of a disk that has little room.
const SHORT_LOG: &str = "PRAGMA wal_autocheckpoint = 16";
/// Takes what is in the log over into the database, and empties the log.
const CHECKPOINT: &str = "PRAGMA wal_checkpoint(TRUNCATE)";
/// The `user_version` of a database whose free pages have nothing in them.
const SCRUBBED: i64 = 1;
/// As is PostgreSQL's own default; stricter settings are left alone.
const DURABLE_POSTGRES: &str = "SELECT set_config('synchronous_commit', 'on', false) WHERE \
                                current_setting('synchronous_commit') = 'off'";

impl Store for SqlStore {
    fn insert<'a>(&'a self, rows: &'a [StoreEntry]) -> StoreFuture<'a, Vec<InsertOutcome>> {
        self.answer(self.within(async move |mut unit| {
            let mut inserted = Vec::with_capacity(rows.len());
            for row in rows {
                inserted.push(insert(&mut unit.connection, row).await?);
            }
            Ok((inserted, unit))
        }))
    }

    fn feedback<'a>(&'a self, id: &'a str) -> StoreFuture<'a, Option<Feedback>> {
        self.answer(self.body("SELECT body FROM feedback WHERE id = $1", id))
    }

    fn by_key<'a>(&'a self, key: &'a Idempotency) -> StoreFuture<'a, Option<InsertOutcome>> {
        self.answer(async move {
            let row = with_key(key)
                .fetch_optional(&self.pool)
                .await
                .map_err(failed)?;
            row.map(|row| before(&row, key)).transpose()
        })
    }

    fn receipt<'a>(&'a self, id: &'a str) -> StoreFuture<'a, Option<Receipt>> {
        self.answer(self.body("SELECT body FROM receipts WHERE id = $1", id))
    }

    fn receipts(&self, limit: u32) -> StoreFuture<'_, Vec<Receipt>> {
        self.answer(async move {
            let sql =
                format!("SELECT body FROM receipts ORDER BY created DESC, id DESC LIMIT {limit}");
            let rows = sqlx::query(&sql)
                .fetch_all(&self.pool)
                .await
                .map_err(failed)?;
            rows.iter().map(read).collect()
        })
    }

    fn page<'a>(&'a self, page: &'a RecordPage) -> StoreFuture<'a, Vec<Feedback>> {
        self.answer(async move {
            let RecordPage {
                filter,
                after,
                limit,
                newest_first,
            } = page;
            let (compare, order) = if *newest_first {
                ("<", "DESC")
            } else {
                (">", "ASC")
            };
            let conditions = [
                ("owner =", filter.owners.name()),
                ("kind =", filter.kind.map(|k| k.name())),
                ("source =", filter.source.map(FeedbackSource::name)),
                ("user_name =", filter.user.as_deref()),
                ("annotator =", filter.annotator.as_deref()),
                ("completion_id =", filter.completion_id.as_deref()),
                (&format!("id {compare}"), after.as_deref()),
            ];
            let given: Vec<(&str, &str)> = conditions
                .into_iter()
                .filter_map(|(what, value)| Some((what, value?)))
                .collect();
            let conditions: String = given
                .iter()
                .enumerate()
                .map(|(i, (what, _))| format!(" AND {what} ${}", i + 1))
                .collect();
            let sql = format!(
                "SELECT body FROM feedback WHERE 1 = 1{conditions} ORDER BY id \
                               {order} LIMIT {limit}"
            );
            let query = given
                .iter()
                .fold(sqlx::query(&sql), |query, (_, value)| query.bind(*value));
            let rows = query.fetch_all(&self.pool).await.map_err(failed)?;
            rows.iter().map(read).collect()
        })
    }

    fn remove<'a>(&'a self, target: &'a RemovalTarget) -> StoreFuture<'a, RemovalCounts> {
        self.answer(
            self.within(async move |mut unit| {
                Ok((remove(&mut unit.connection, target).await?, unit))
            }),
        )
    }

    fn doomed(&self, limit: u32) -> StoreFuture<'_, Vec<ImageHash>> {
        self.answer(async move {
            let sql = format!("SELECT image FROM doomed_images LIMIT {limit}");
            let rows = sqlx::query(&sql)
                .fetch_all(&self.pool)
                .await
                .map_err(failed)?;
            let image = |row: &AnyRow| {
                row.try_get::<String, _>(0)
                    .map_err(failed)?
                    .parse()
                    .map_err(|e| StoreError::Failed(format!("{e}")))
            };
            rows.iter().map(image).collect()
        })
    }

    fn refers(&self, image: ImageHash) -> StoreFuture<'_, bool> {
        self.answer(async move {
            let sql = "SELECT 1 FROM feedback WHERE image = $1 UNION ALL SELECT 1 FROM receipts \
                       WHERE image = $1 LIMIT 1";
            let row = sqlx::query(sql)
                .bind(image.to_string())
                .fetch_optional(&self.pool)
                .await
                .map_err(failed)?;
            Ok(row.is_some())
        })
    }

    fn spare(&self, image: ImageHash) -> StoreFuture<'_, ()> {
        self.answer(async move {
            let query =
                sqlx::query("DELETE FROM doomed_images WHERE image = $1").bind(image.to_string());
            query.execute(&self.pool).await.map(drop).map_err(failed)
        })
    }

    fn stats<'a>(&'a self, owners: &'a Owners) -> StoreFuture<'a, StoreStats> {
        self.answer(async move {
            let of = format!("WHERE 1 = 1{}", owner_condition(owners, "owner", 1));
            let feedback = self
                .counts(
                    &format!("SELECT kind, count(*) FROM feedback {of} GROUP BY kind"),
                    owners,
                )
                .await?;
            let sources = self
                .counts(
                    &format!("SELECT source, count(*) FROM feedback {of} GROUP BY source"),
                    owners,
                )
                .await?;
            let receipts = self
                .counts(
                    &format!("SELECT 'receipts', count(*) FROM receipts {of}"),
                    owners,
                )
                .await?;
            Ok(StoreStats {
                feedback: feedback.into_iter().collect(),
                sources: sources.into_iter().collect(),
                receipts: receipts.first().map_or(0, |(_, n)| *n),
            })
        })
    }

    fn redate_receipts(&self, now: u64) -> StoreFuture<'_, ()> {
        self.answer(async move {
            let query =
                sqlx::query("UPDATE receipts SET created = $1 WHERE created > $1").bind(now as i64);
            query.execute(&self.pool).await.map(drop).map_err(failed)
        })
    }

    fn receipt_bytes(&self) -> StoreFuture<'_, Vec<OwnerBytes>> {
        self.answer(async move {
            let by_image = "SELECT owner, SUM(bytes) + MAX(image_bytes) AS bytes FROM receipts \
                            GROUP BY owner, image";
            let sql = format!(
                "SELECT owner, CAST(SUM(bytes) AS BIGINT) FROM ({by_image}) AS \
                               by_image GROUP BY owner"
            );
            let counts = self.counts(&sql, &Owners::All).await?;
            Ok(counts
                .into_iter()
                .map(|(owner, bytes)| OwnerBytes { owner, bytes })
                .collect())
        })
    }

    fn scrub(&self) -> StoreFuture<'_, ()> {
        self.answer(async move {
            if self.is_sqlite {
                self.pool.execute(CHECKPOINT).await.map_err(failed)?;
            }
            Ok(())
        })
    }

    fn damage(&self) -> Option<String> {
        self.damage.get().cloned()
    }
}

pub(super) async fn body<T: DeserializeOwned>(
    connection: &mut AnyConnection,
    sql: &str,
    id: &str,
) -> Result<Option<T>, StoreError> {
    let row = sqlx::query(sql)
        .bind(id)
        .fetch_optional(connection)
        .await
        .map_err(failed)?;
    row.map(|row| read(&row)).transpose()
}

async fn insert(
    connection: &mut AnyConnection,
    row: &StoreEntry,
) -> Result<InsertOutcome, StoreError> {
    let (record, key) = match row {
        StoreEntry::Receipt(receipt) => {
            let sql = "INSERT INTO receipts (id, created, image, user_name, body, owner, bytes, \
                       image_bytes) \
                       VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING";
            let body = json(receipt)?;
            let bytes = body.len() as i64;
            let query = sqlx::query(sql)
                .bind(&receipt.id)
                .bind(receipt.created as i64)
                .bind(receipt.image.to_string());
            let query = query
                .bind(&receipt.user)
                .bind(body)
                .bind(&receipt.owner)
                .bind(bytes)
                .bind(receipt.image_bytes as i64);
            query.execute(&mut *connection).await.map_err(failed)?;
            return Ok(InsertOutcome::New);
        }
        StoreEntry::Queue(entry) => {
            return enqueue(connection, entry)
                .await
                .map(|()| InsertOutcome::New);
        }
        StoreEntry::Feedback(record, key) => (record, key),
    };
    let sql = "INSERT INTO feedback (id, created, completion_id, image, user_name, annotator, \
               kind, source, idempotency_key, idempotency_digest, body, \
               overlapping, unassisted, digest, owner, annotator_owner) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16) ON \
               CONFLICT DO NOTHING";
    let query = sqlx::query(sql)
        .bind(&record.id)
        .bind(record.created as i64)
        .bind(&record.completion_id)
        .bind(record.image.to_string());
    let query = query
        .bind(&record.user)
        .bind(&record.annotator)
        .bind(record.kind.name())
        .bind(record.source.name());
    let query = query
        .bind(key.as_ref().map(|k| &k.key))
        .bind(key.as_ref().map(|k| &k.digest))
        .bind(json(record)?);
    let (overlapping, unassisted) = record
        .queued
        .map_or((false, false), |queued| (queued.overlap, record.unassisted));
    let query = query
        .bind(i64::from(overlapping))
        .bind(i64::from(unassisted))
        .bind(digest(record));
    let query = query.bind(&record.owner).bind(&record.annotator_owner);
    let done = query.execute(&mut *connection).await.map_err(failed)?;
    if done.rows_affected() > 0 {
        judged(connection, record).await?;
    }
    match key {
        _ if done.rows_affected() > 0 => Ok(InsertOutcome::New),
        Some(key) => match with_key(key)
            .fetch_optional(&mut *connection)
            .await
            .map_err(failed)?
        {
            Some(row) => before(&row, key),
            None => Ok(InsertOutcome::Conflict),
        },
        None => Ok(InsertOutcome::Conflict),
    }
}

fn with_key(key: &Idempotency) -> SqlQuery<'_> {
    sqlx::query("SELECT body, idempotency_digest FROM feedback WHERE idempotency_key = $1")
        .bind(&key.key)
}

fn before(row: &AnyRow, key: &Idempotency) -> Result<InsertOutcome, StoreError> {
    let same = row.try_get::<String, _>(1).map_err(failed)? == key.digest;
    if same {
        Ok(InsertOutcome::Before(Box::new(read(row)?)))
    } else {
        Ok(InsertOutcome::Conflict)
    }
}

pub(super) fn json(value: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|e| StoreError::Failed(e.to_string()))
}

/// Reads the JSON of the first column.
pub(super) fn read<T: DeserializeOwned>(row: &AnyRow) -> Result<T, StoreError> {
    let body: &str = row.try_get(0).map_err(failed)?;
    serde_json::from_str(body).map_err(|e| StoreError::Failed(format!("a row cannot be read: {e}")))
}

pub(super) fn failed(error: sqlx::Error) -> StoreError {
    let code = error
        .as_database_error()
        .and_then(|e| e.code())
        .unwrap_or_default();
    match (&*code, &error) {
        // SQLITE_CORRUPT and its kinds, SQLITE_NOTADB, SQLITE_IOERR_SHORT_READ; PostgreSQL's
        // data_corrupted and index_corrupted.
        ("11" | "267" | "523" | "779" | "26" | "522" | "XX001" | "XX002", _) => {
            StoreError::Damaged(error.to_string())
        }
        // SQLITE_FULL, SQLITE_IOERR_WRITE (what it makes of a quota), SQLITE_IOERR_SHMSIZE;
        // PostgreSQL's disk_full.
        ("13" | "778" | "4874" | "53100", _) => StoreError::Full,
        (
            _,
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed,
        ) => StoreError::Unavailable(error.to_string()),
        // PostgreSQL: connection exceptions, and a server that starts or stops. SQLite: another
        // process writes for too long.
        (code, _)
            if code.starts_with("08")
                || code.starts_with("57P")
                || matches!(code, "5" | "517" | "53300") =>
        {
            StoreError::Unavailable(error.to_string())
        }
        _ => StoreError::of(&error),
    }
}
