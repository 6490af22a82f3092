//! Query and path parameters.

use axum::{
    extract::{FromRequestParts, Path, Query},
    http::request::Parts,
};
use serde::{Deserialize, de::DeserializeOwned};
use utoipa::{IntoParams, ToSchema};

use crate::{
    config::KeyScope,
    feedback::{
        corrections::Submitter,
        derive::check_name,
        record::{FeedbackSource, JudgmentKind, ShownNames},
        store::{
            AnnotatorTarget, Owners, RecordFilter, RecordPage, RemovalTarget, queue::AnnotatorId,
        },
    },
    serve::schema::feedback::{FeedbackSourceSchema, JudgmentKindSchema},
    serve::{caller::Caller, error::ApiError, openai::wording::query_error},
};

/// Default page size.
const DEFAULT_PAGE_SIZE: u32 = 20;
const MAX_PAGE_SIZE: u32 = 100;

/// [`Query`] with errors in this API's format.
pub(crate) struct Parameters<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Parameters<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Query(parameters) = Query::from_request_parts(parts, state)
            .await
            .map_err(|e| query_error(&e.body_text()))?;
        Ok(Self(parameters))
    }
}

/// An id in the path.
pub(crate) struct PathId(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for PathId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path(id) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|e| ApiError::param("id", "invalid_value", e.body_text()))?;
        check_name("id", &id)?;
        Ok(Self(id))
    }
}

impl Caller {
    /// Returns `true` if the caller may read other owners' data.
    pub(in crate::serve) fn reads_all(&self) -> bool {
        self.scopes.contains(KeyScope::FeedbackRead)
    }

    /// Returns the owners whose receipts, records and queue items the caller may read.
    pub(in crate::serve) fn owners(&self) -> Owners {
        if self.reads_all() {
            Owners::All
        } else {
            Owners::One(self.owner.to_string())
        }
    }

    /// Returns the owners that a request covers, given its optional `owner`.
    ///
    /// # Errors
    /// 403 if the caller may not read that owner's data.
    fn requested_owners(&self, owner: Option<String>) -> Result<Owners, ApiError> {
        let owner = owner
            .map(|owner| {
                if owner.is_empty() {
                    Ok(owner)
                } else {
                    check_name("owner", &owner).map(|()| owner)
                }
            })
            .transpose()?;
        match (self.owners(), owner) {
            (owners, None) => Ok(owners),
            (owners, Some(owner)) if owners.contain(&owner) => Ok(Owners::One(owner)),
            _ => Err(ApiError::insufficient_scope(format!(
                "'owner' is not the key's owner; records of other owners need the scope `{}`",
                KeyScope::FeedbackRead.name()
            ))
            .with_param("owner")),
        }
    }

    /// Returns the names that the caller may see in records; those of annotators only on request.
    pub(super) fn shown_names(&self, annotators: Option<bool>) -> ShownNames {
        ShownNames {
            annotators: annotators.unwrap_or(false),
            owners: self.reads_all(),
        }
    }

    /// Returns the caller as submitter of feedback.
    pub(super) fn submitter(&self) -> Submitter {
        Submitter {
            owner: self.owner.to_string(),
            owners: self.owners(),
        }
    }

    /// Returns the caller's annotator of this name.
    pub(in crate::serve) fn annotator(&self, name: String) -> AnnotatorId {
        AnnotatorId {
            owner: self.owner.to_string(),
            name,
        }
    }
}

/// Sort order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SortOrder {
    /// Oldest first.
    Asc,
    /// Newest first.
    #[default]
    Desc,
}

/// Parameters of the list of records.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// Records per page.
    #[param(minimum = 1, maximum = 100, default = 20)]
    limit: Option<u32>,
    /// Returns records after this id.
    after: Option<String>,
    /// Sort order by time; newest first by default.
    #[param(inline)]
    order: Option<SortOrder>,
    /// Filters by judgment kind.
    #[param(value_type = Option<JudgmentKindSchema>)]
    kind: Option<JudgmentKind>,
    /// Filters by source.
    #[param(value_type = Option<FeedbackSourceSchema>)]
    source: Option<FeedbackSource>,
    /// Filters by user.
    user: Option<String>,
    /// Filters by annotator.
    annotator: Option<String>,
    /// Filters by completion.
    completion_id: Option<String>,
    /// Filters by owner. Owners other than the key's own need the scope `feedback:read`; the empty
    /// owner is that of requests without keys.
    owner: Option<String>,
    /// Includes the annotators' names.
    annotators: Option<bool>,
}

impl ListQuery {
    /// Returns the page query for a caller, and the names shown on it.
    pub(super) fn page(self, caller: &Caller) -> Result<(RecordPage, ShownNames), ApiError> {
        let Self {
            limit,
            after,
            order,
            kind,
            source,
            user,
            annotator,
            completion_id,
            owner,
            annotators,
        } = self;
        let limit = limit.unwrap_or(DEFAULT_PAGE_SIZE);
        if !(1..=MAX_PAGE_SIZE).contains(&limit) {
            let message = format!("'limit' is {limit}; it must be between 1 and {MAX_PAGE_SIZE}");
            return Err(ApiError::param("limit", "out_of_range", message));
        }
        check_names([("after", &after)])?;
        let filter = validate_filter(RecordFilter {
            owners: caller.requested_owners(owner)?,
            kind,
            source,
            user,
            annotator,
            completion_id,
        })?;
        let newest_first = order.unwrap_or_default() == SortOrder::Desc;
        Ok((
            RecordPage {
                filter,
                after,
                limit,
                newest_first,
            },
            caller.shown_names(annotators),
        ))
    }
}

/// Parameters of a single record.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct OneQuery {
    /// Includes the annotator's name.
    pub(super) annotators: Option<bool>,
}

/// Parameters that name the person whose data is deleted: a user or an annotator.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct PersonQuery {
    /// User, as in the field `user` of completions or feedback; their records and receipts are
    /// deleted.
    user: Option<String>,
    /// Annotator, as in the field `annotator` of feedback or the queue; their records are kept
    /// without the name.
    annotator: Option<String>,
    /// Deletes the annotator's records too.
    records: Option<bool>,
    /// Restricts the deletion to this owner's data. Owners other than the key's own need the scope
    /// `feedback:read`; the empty owner is that of requests without keys.
    owner: Option<String>,
}

/// Records changed in one transaction.
const BATCH: u32 = 512;

impl PersonQuery {
    /// Returns the target of the deletion, restricted to what the caller may delete.
    pub(super) fn target(self, caller: &Caller) -> Result<RemovalTarget, ApiError> {
        let Self {
            user,
            annotator,
            records,
            owner,
        } = self;
        let owners = caller.requested_owners(owner)?;
        match (user, annotator) {
            (Some(user), None) => {
                check_name("user", &user)?;
                if records.is_some() {
                    let message = "'records' requires 'annotator'; with 'user' all of their data \
                                   is deleted";
                    return Err(ApiError::param("records", "invalid_value", message));
                }
                Ok(RemovalTarget::User(user, owners))
            }
            (None, Some(name)) => {
                check_name("annotator", &name)?;
                Ok(RemovalTarget::Annotator(AnnotatorTarget {
                    name,
                    owners,
                    records: records.unwrap_or(false),
                    limit: BATCH,
                }))
            }
            (Some(_), Some(_)) => Err(ApiError::param(
                "annotator",
                "invalid_value",
                "'annotator' cannot be given together with 'user'",
            )),
            (None, None) => Err(ApiError::param(
                "user",
                "missing_required_parameter",
                "'user' or 'annotator' is needed: whose data should be deleted?",
            )),
        }
    }
}

/// Parameters of an export.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ExportQuery {
    /// File format: `jsonl`, `parquet`, `rlhf-v`, `trl-dpo`, `trl-prm` or `label-studio`.
    pub(super) format: Option<String>,
    /// Filters by judgment kind.
    #[param(value_type = Option<JudgmentKindSchema>)]
    kind: Option<JudgmentKind>,
    /// Filters by source.
    #[param(value_type = Option<FeedbackSourceSchema>)]
    source: Option<FeedbackSource>,
    /// Filters by user.
    user: Option<String>,
    /// Filters by annotator.
    annotator: Option<String>,
    /// Filters by owner. Owners other than the key's own need the scope `feedback:read`; the empty
    /// owner is that of requests without keys.
    owner: Option<String>,
    /// Includes the annotators' names.
    pub(super) annotators: Option<bool>,
}

impl ExportQuery {
    pub(super) fn filter(&self, caller: &Caller) -> Result<RecordFilter, ApiError> {
        validate_filter(RecordFilter {
            owners: caller.requested_owners(self.owner.clone())?,
            kind: self.kind,
            source: self.source,
            user: self.user.clone(),
            annotator: self.annotator.clone(),
            ..RecordFilter::default()
        })
    }
}

fn validate_filter(filter: RecordFilter) -> Result<RecordFilter, ApiError> {
    check_names([
        ("user", &filter.user),
        ("annotator", &filter.annotator),
        ("completion_id", &filter.completion_id),
    ])?;
    Ok(filter)
}

/// Rejects names that cannot exist in the store.
fn check_names<'a>(
    names: impl IntoIterator<Item = (&'static str, &'a Option<String>)>,
) -> Result<(), ApiError> {
    names
        .into_iter()
        .filter_map(|(field, name)| Some((field, name.as_ref()?)))
        .try_for_each(|(field, name)| Ok(check_name(field, name)?))
}
