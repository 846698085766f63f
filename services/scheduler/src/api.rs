//! The gRPC edge: what operators do, for the merchants' own tools. See [`crate::operations`], which checks.

use crate::operations::store::Which;
use crate::operations::{self, Denied, OpenHold, Operator, Target};
use crate::rules::Rules;
use bus::{Bus, Failure, Work};
use events::api::operations_server::{Operations, OperationsServer};
use events::api::{self, hold_request, release_request};
use events::time;
use events::topology::SCHEDULER_OPERATIONS;
use jiff::civil::Date;
use kernel::{CustomerId, InvoiceId, MerchantId};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

/// How many entries a list has at most.
const MAX_LISTED: i32 = 1_000;
/// And if nobody says how many.
const LISTED: i32 = 100;

/// What the edge needs.
#[derive(Clone)]
pub struct Edge {
    rules: Rules,
    bus: Bus,
}

impl Edge {
    /// An edge in front of the scheduler's tables.
    pub const fn new(rules: Rules, bus: Bus) -> Self {
        Self { rules, bus }
    }

    /// The gRPC service.
    pub fn grpc(self) -> OperationsServer<Self> {
        OperationsServer::new(self)
    }

    fn authorize(&self, metadata: &MetadataMap, merchant: &str) -> Result<MerchantId, Status> {
        runtime::grpc::authorize(self.rules.merchants(), metadata, merchant).map(|merchant| merchant.id.clone())
    }

    async fn begin(&self) -> Result<Work, Status> {
        self.bus.begin(&SCHEDULER_OPERATIONS).await.map_err(|error| status(error.into()))
    }
}

async fn commit(work: Work) -> Result<(), Status> {
    work.commit().await.map_err(|error| status(error.into()))
}

/// What was denied, with its code: a caller learns from it whether to correct the call, to wait, or to try again.
fn status(denied: Denied) -> Status {
    match denied {
        Denied::NotFound(what) => Status::not_found(what),
        Denied::Invalid { .. } => Status::invalid_argument(denied.to_string()),
        Denied::Refused(refusal) => {
            let mut metadata = MetadataMap::new();
            let until = refusal.until.map(|until| until.to_string());
            for (key, text) in [
                ("dunlin-reason", Some(refusal.reason.as_str())),
                ("dunlin-rule", Some(refusal.rule.as_str())),
                ("dunlin-until", until.as_deref()),
            ] {
                // A rule may hold words of people, which a header cannot: then the message alone says it.
                if let Some(value) = text.and_then(|text| text.parse().ok()) {
                    metadata.insert(key, value);
                }
            }
            Status::with_metadata(tonic::Code::FailedPrecondition, refusal.to_string(), metadata)
        }
        Denied::Failed(failure) => {
            tracing::warn!(%failure, "an operator's call failed");
            match failure {
                Failure::Retry(_) => Status::unavailable("nothing was changed; try again"),
                Failure::Reject(_) => Status::internal("nothing was changed; the log says why"),
            }
        }
    }
}

fn invalid(field: &str, problem: impl std::fmt::Display) -> Status {
    Status::invalid_argument(format!("{field}: {problem}"))
}

fn customer(merchant: &MerchantId, id: &str) -> Result<Target, Status> {
    let id: CustomerId = id.parse().map_err(|error| invalid("customer_id", error))?;
    Ok(Target::Customer((merchant.clone(), id)))
}

fn invoice(id: &str) -> Result<InvoiceId, Status> {
    id.parse().map_err(|error| invalid("invoice_id", error))
}

fn date(field: &str, text: &str) -> Result<Option<Date>, Status> {
    let parsed = (!text.is_empty()).then(|| text.parse::<Date>()).transpose();
    parsed.map_err(|_| invalid(field, format!("{text:?} is no date such as 2026-12-24")))
}

fn wire(hold: OpenHold) -> api::OpenHold {
    api::OpenHold {
        kind: hold.kind.as_str().to_owned(),
        hold_id: hold.id.unwrap_or_default(),
        customer_id: hold.customer,
        invoice_id: hold.invoice.unwrap_or_default(),
        until: hold.until.map(|until| until.to_string()).unwrap_or_default(),
        waits_for_person: hold.waits_for_person,
        reason: hold.reason,
        by: hold.by,
        since: hold.since.map(time::to_wire),
    }
}

#[tonic::async_trait]
impl Operations for Edge {
    async fn hold(&self, request: Request<api::HoldRequest>) -> Result<Response<api::HoldResponse>, Status> {
        let merchant = self.authorize(request.metadata(), &request.get_ref().merchant_id)?;
        let request = request.into_inner();
        let target = match &request.target {
            Some(hold_request::Target::CustomerId(id)) => customer(&merchant, id)?,
            Some(hold_request::Target::InvoiceId(id)) => Target::Invoice((merchant, invoice(id)?)),
            None => return Err(invalid("target", "is missing: give customer_id or invoice_id")),
        };
        let until = date("until", &request.until)?;
        let operator = Operator::try_new(&request.by, &request.reason).map_err(status)?;
        let mut work = self.begin().await?;
        let placed = operations::hold(&self.rules, &mut work, &target, until, request.promise, &operator).await;
        let placed = placed.map_err(status)?;
        commit(work).await?;
        let invoices = i32::try_from(placed.invoices).unwrap_or(i32::MAX);
        Ok(Response::new(api::HoldResponse { hold_id: placed.id, invoices }))
    }

    async fn release(&self, request: Request<api::ReleaseRequest>) -> Result<Response<api::ReleaseResponse>, Status> {
        let merchant = self.authorize(request.metadata(), &request.get_ref().merchant_id)?;
        let request = request.into_inner();
        let which = match &request.target {
            Some(release_request::Target::HoldId(id)) => Which::One(*id),
            Some(release_request::Target::CustomerId(id)) => Which::All(customer(&merchant, id)?),
            Some(release_request::Target::InvoiceId(id)) => {
                Which::All(Target::Invoice((merchant.clone(), invoice(id)?)))
            }
            None => return Err(invalid("target", "is missing: give hold_id, customer_id or invoice_id")),
        };
        let operator = Operator::try_without_reason(&request.by, &request.reason).map_err(status)?;
        let mut work = self.begin().await?;
        let released = operations::release(&self.rules, &mut work, Some(&merchant), &which, &operator).await;
        let hold_ids = released.map_err(status)?;
        commit(work).await?;
        Ok(Response::new(api::ReleaseResponse { hold_ids }))
    }

    async fn skip(&self, request: Request<api::SkipRequest>) -> Result<Response<api::SkipResponse>, Status> {
        let merchant = self.authorize(request.metadata(), &request.get_ref().merchant_id)?;
        let request = request.into_inner();
        let key = (merchant, invoice(&request.invoice_id)?);
        if request.step.is_empty() {
            return Err(invalid("step", "is missing"));
        }
        let operator = Operator::try_new(&request.by, &request.reason).map_err(status)?;
        let mut work = self.begin().await?;
        operations::skip(&self.rules, &mut work, &key, &request.step, &operator).await.map_err(status)?;
        commit(work).await?;
        Ok(Response::new(api::SkipResponse {}))
    }

    async fn send_now(&self, request: Request<api::SendNowRequest>) -> Result<Response<api::SendNowResponse>, Status> {
        let merchant = self.authorize(request.metadata(), &request.get_ref().merchant_id)?;
        let request = request.into_inner();
        let key = (merchant, invoice(&request.invoice_id)?);
        let step = Some(request.step.as_str()).filter(|step| !step.is_empty());
        let operator = Operator::try_new(&request.by, &request.reason).map_err(status)?;
        let mut work = self.begin().await?;
        let sent = operations::send_now(&self.rules, &mut work, &key, step, &operator).await.map_err(status)?;
        commit(work).await?;
        let reminder_id = sent.reminder.to_string();
        Ok(Response::new(api::SendNowResponse { reminder_id, step: sent.step, merged: sent.merged }))
    }

    async fn list_holds(
        &self,
        request: Request<api::ListHoldsRequest>,
    ) -> Result<Response<api::ListHoldsResponse>, Status> {
        let merchant = self.authorize(request.metadata(), &request.get_ref().merchant_id)?;
        let api::ListHoldsRequest { waiting_only, limit, .. } = request.into_inner();
        if !(0..=MAX_LISTED).contains(&limit) {
            return Err(invalid("limit", format!("must lie between 0 and {MAX_LISTED}")));
        }
        let limit = if limit == 0 { LISTED } else { limit };
        let mut work = self.begin().await?;
        let holds = operations::list(&self.rules, work.tx(), Some(&merchant), waiting_only, limit.into()).await;
        let holds = holds.map_err(status)?.into_iter().map(wire).collect();
        Ok(Response::new(api::ListHoldsResponse { holds }))
    }
}
