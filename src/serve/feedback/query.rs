//! Parameters of URLs.

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
    serve::{auth::Caller, error::ApiError, openai::wording::query_error},
};

/// Records of a page, where nobody says, and at most.
const PAGE: u32 = 20;
const LARGEST_PAGE: u32 = 100;

/// [`Query`], with our errors.
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

/// The id in a path.
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
    /// Returns whether the caller sees what belongs to others.
    pub(in crate::serve) fn reads_all(&self) -> bool {
        self.scopes.contains(KeyScope::FeedbackRead)
    }

    /// Returns whose receipts, records and items of the queue the caller sees.
    pub(in crate::serve) fn owners(&self) -> Owners {
        if self.reads_all() {
            Owners::All
        } else {
            Owners::One(self.owner.to_string())
        }
    }

    /// Returns whose a request is about that may name one owner.
    ///
    /// # Errors
    /// 403 where that is another one than the caller sees.
    fn owners_among(&self, owner: Option<String>) -> Result<Owners, ApiError> {
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
                "the key's owner is another one than 'owner', whose records need the scope `{}`",
                KeyScope::FeedbackRead.name()
            ))
            .at("owner")),
        }
    }

    /// Returns which names of records the caller sees, who may ask for those of annotators.
    pub(super) fn shown_names(&self, annotators: Option<bool>) -> ShownNames {
        ShownNames {
            annotators: annotators.unwrap_or(false),
            owners: self.reads_all(),
        }
    }

    /// Returns who it is that hands in feedback.
    pub(super) fn submitter(&self) -> Submitter {
        Submitter {
            owner: self.owner.to_string(),
            owners: self.owners(),
        }
    }

    /// Returns the annotator whom the caller calls so.
    pub(in crate::serve) fn annotator(&self, name: String) -> AnnotatorId {
        AnnotatorId {
            owner: self.owner.to_string(),
            name,
        }
    }
}

/// In which order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SortOrder {
    /// Oldest first.
    Asc,
    /// Newest first.
    #[default]
    Desc,
}

/// Which page.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// Most records.
    #[param(minimum = 1, maximum = 100, default = 20)]
    limit: Option<u32>,
    /// Only those after this id.
    after: Option<String>,
    /// Newest first where absent.
    #[param(inline)]
    order: Option<SortOrder>,
    /// Only those that say this.
    #[param(value_type = Option<JudgmentKindSchema>)]
    kind: Option<JudgmentKind>,
    /// Only those from there.
    #[param(value_type = Option<FeedbackSourceSchema>)]
    source: Option<FeedbackSource>,
    /// Only those of this user.
    user: Option<String>,
    /// Only those by this annotator.
    annotator: Option<String>,
    /// Only those about this completion.
    completion_id: Option<String>,
    /// Only those of this owner, which needs the scope `feedback:read` unless it is the key's own;
    /// empty: those made without keys.
    owner: Option<String>,
    /// Whether annotators are named.
    annotators: Option<bool>,
}

impl ListQuery {
    /// The page for a caller, and which names are on it.
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
        let limit = limit.unwrap_or(PAGE);
        if !(1..=LARGEST_PAGE).contains(&limit) {
            let message = format!("'limit' is {limit}; it must be between 1 and {LARGEST_PAGE}");
            return Err(ApiError::param("limit", "out_of_range", message));
        }
        check_names([("after", &after)])?;
        let filter = checked(RecordFilter {
            owners: caller.owners_among(owner)?,
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

/// How one record is shown.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct OneQuery {
    /// Whether the annotator is named.
    pub(super) annotators: Option<bool>,
}

/// Who is forgotten: a user or an annotator.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct PersonQuery {
    /// The user, as `user` of completions or feedback named them: what belongs to them goes.
    user: Option<String>,
    /// The annotator, as `annotator` of feedback or the queue named them: their records stay
    /// without the name.
    annotator: Option<String>,
    /// Whether the annotator's records go too.
    records: Option<bool>,
    /// Only what belongs to this owner, which needs the scope `feedback:read` unless it is the
    /// key's own; empty: what was made without keys.
    owner: Option<String>,
}

/// Records that are changed in one transaction.
const AT_ONCE: u32 = 512;

impl PersonQuery {
    /// Returns what goes, of what the caller may remove.
    pub(super) fn target(self, caller: &Caller) -> Result<RemovalTarget, ApiError> {
        let Self {
            user,
            annotator,
            records,
            owner,
        } = self;
        let owners = caller.owners_among(owner)?;
        match (user, annotator) {
            (Some(user), None) => {
                check_name("user", &user)?;
                if records.is_some() {
                    let message = "'records' goes with 'annotator'; with 'user' all that belongs \
                                   to them is removed";
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
                    limit: AT_ONCE,
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
                "'user' or 'annotator' is needed: who is to be forgotten?",
            )),
        }
    }
}

/// Which file.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ExportQuery {
    /// How it is written: `jsonl`, `parquet`, `rlhf-v`, `trl-dpo`, `trl-prm` or `label-studio`.
    pub(super) format: Option<String>,
    /// Only records that say this.
    #[param(value_type = Option<JudgmentKindSchema>)]
    kind: Option<JudgmentKind>,
    /// Only those from there.
    #[param(value_type = Option<FeedbackSourceSchema>)]
    source: Option<FeedbackSource>,
    /// Only those of this user.
    user: Option<String>,
    /// Only those by this annotator.
    annotator: Option<String>,
    /// Only those of this owner, which needs the scope `feedback:read` unless it is the key's own;
    /// empty: those made without keys.
    owner: Option<String>,
    /// Whether annotators are named.
    pub(super) annotators: Option<bool>,
}

impl ExportQuery {
    pub(super) fn filter(&self, caller: &Caller) -> Result<RecordFilter, ApiError> {
        checked(RecordFilter {
            owners: caller.owners_among(self.owner.clone())?,
            kind: self.kind,
            source: self.source,
            user: self.user.clone(),
            annotator: self.annotator.clone(),
            ..RecordFilter::default()
        })
    }
}

fn checked(filter: RecordFilter) -> Result<RecordFilter, ApiError> {
    check_names([
        ("user", &filter.user),
        ("annotator", &filter.annotator),
        ("completion_id", &filter.completion_id),
    ])?;
    Ok(filter)
}

/// Refuses names that nothing in the store can have.
fn check_names<'a>(
    names: impl IntoIterator<Item = (&'static str, &'a Option<String>)>,
) -> Result<(), ApiError> {
    names
        .into_iter()
        .filter_map(|(field, name)| Some((field, name.as_ref()?)))
        .try_for_each(|(field, name)| Ok(check_name(field, name)?))
}
