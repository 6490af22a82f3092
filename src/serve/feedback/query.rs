//! Parameters of URLs.

use axum::{
    extract::{FromRequestParts, Path, Query},
    http::request::Parts,
};
use serde::{Deserialize, de::DeserializeOwned};
use utoipa::{IntoParams, ToSchema};

use crate::{
    feedback::{
        derive::check_name,
        record::{Kind, Source},
        store::{Filter, Page},
    },
    serve::{error::ApiError, openai::wording::query_error},
};

/// Records of a page, where nobody says, and at most.
const PAGE: u32 = 20;
const LARGEST_PAGE: u32 = 100;

/// [`Query`], with our errors.
pub(crate) struct Parameters<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Parameters<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Query(parameters) = Query::from_request_parts(parts, state).await.map_err(|e| query_error(&e.body_text()))?;
        Ok(Self(parameters))
    }
}

/// The id in a path.
pub(crate) struct Id(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path(id) =
            Path::<String>::from_request_parts(parts, state).await.map_err(|e| ApiError::param("id", "invalid_value", e.body_text()))?;
        check_name("id", &id)?;
        Ok(Self(id))
    }
}

/// In which order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
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
    order: Option<Order>,
    /// Only those that say this.
    kind: Option<Kind>,
    /// Only those from there.
    source: Option<Source>,
    /// Only those of this user.
    user: Option<String>,
    /// Only those by this annotator.
    annotator: Option<String>,
    /// Only those about this completion.
    completion_id: Option<String>,
    /// Whether annotators are named.
    annotators: Option<bool>,
}

impl ListQuery {
    /// The page, and whether annotators are named on it.
    pub(super) fn page(self) -> Result<(Page, bool), ApiError> {
        let Self { limit, after, order, kind, source, user, annotator, completion_id, annotators } = self;
        let limit = limit.unwrap_or(PAGE);
        if !(1..=LARGEST_PAGE).contains(&limit) {
            let message = format!("'limit' is {limit}; it must be between 1 and {LARGEST_PAGE}");
            return Err(ApiError::param("limit", "out_of_range", message));
        }
        check_names([("after", &after)])?;
        let filter = checked(Filter { kind, source, user, annotator, completion_id })?;
        Ok((Page { filter, after, limit, newest_first: order.unwrap_or_default() == Order::Desc }, annotators.unwrap_or(false)))
    }
}

/// How one record is shown.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct OneQuery {
    /// Whether the annotator is named.
    pub(super) annotators: Option<bool>,
}

/// Whose.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct UserQuery {
    /// The user, as `user` of completions or feedback named them.
    pub(super) user: String,
}

/// Which file.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ExportQuery {
    /// How it is written: `jsonl`, `parquet`, `rlhf-v`, `trl-dpo`, `trl-prm` or `label-studio`.
    pub(super) format: Option<String>,
    /// Only records that say this.
    kind: Option<Kind>,
    /// Only those from there.
    source: Option<Source>,
    /// Only those of this user.
    user: Option<String>,
    /// Only those by this annotator.
    annotator: Option<String>,
    /// Whether annotators are named.
    pub(super) annotators: Option<bool>,
}

impl ExportQuery {
    pub(super) fn filter(&self) -> Result<Filter, ApiError> {
        checked(Filter {
            kind: self.kind,
            source: self.source,
            user: self.user.clone(),
            annotator: self.annotator.clone(),
            ..Filter::default()
        })
    }
}

fn checked(filter: Filter) -> Result<Filter, ApiError> {
    check_names([("user", &filter.user), ("annotator", &filter.annotator), ("completion_id", &filter.completion_id)])?;
    Ok(filter)
}

/// Refuses names that nothing in the store can have.
fn check_names<'a>(names: impl IntoIterator<Item = (&'static str, &'a Option<String>)>) -> Result<(), ApiError> {
    names.into_iter().filter_map(|(field, name)| Some((field, name.as_ref()?))).try_for_each(|(field, name)| Ok(check_name(field, name)?))
}
