CREATE TABLE scheduler.campaign (
    name          text        NOT NULL,
    version       text        NOT NULL,
    text          text        NOT NULL,
    first_used_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (name, version)
);

COMMENT ON TABLE  scheduler.campaign IS 'Every version of every campaign that was ever in force: running cases stay on theirs';
COMMENT ON COLUMN scheduler.campaign.name          IS 'File name without its ending';
COMMENT ON COLUMN scheduler.campaign.version       IS 'Hash of the text';
COMMENT ON COLUMN scheduler.campaign.text          IS 'The file';
COMMENT ON COLUMN scheduler.campaign.first_used_at IS 'Machine time';

CREATE TABLE scheduler.customer (
    merchant        text    NOT NULL,
    customer        text    NOT NULL,
    version         bigint  NOT NULL DEFAULT 0,
    time_zone       text    NOT NULL DEFAULT '',
    deleted         boolean NOT NULL DEFAULT false,
    segment         text    NOT NULL DEFAULT 'new',
    segment_version bigint  NOT NULL DEFAULT 0,
    opted_out       boolean NOT NULL DEFAULT false,
    reminded_on     date,
    reminded_by     uuid,
    reminded_before date,
    in_flight       uuid[]  NOT NULL DEFAULT '{}',
    PRIMARY KEY (merchant, customer)
) WITH (fillfactor = 80);

COMMENT ON TABLE  scheduler.customer IS 'What planning needs to know of a customer';
COMMENT ON COLUMN scheduler.customer.merchant        IS 'Whose';
COMMENT ON COLUMN scheduler.customer.customer        IS 'The processor''s id';
COMMENT ON COLUMN scheduler.customer.version         IS 'Of the snapshot from customer-changed; 0 if none has come';
COMMENT ON COLUMN scheduler.customer.time_zone       IS 'IANA zone; empty: the merchant''s';
COMMENT ON COLUMN scheduler.customer.deleted         IS 'Nobody is left to write to';
COMMENT ON COLUMN scheduler.customer.segment         IS 'new, prompt, mixed or late';
COMMENT ON COLUMN scheduler.customer.segment_version IS 'Of the last customer-segmented';
COMMENT ON COLUMN scheduler.customer.opted_out       IS 'Asked not to be reminded';
COMMENT ON COLUMN scheduler.customer.reminded_on     IS 'Payer''s date of the last reminder, about whatever: the minimum gap counts from it. The day it was asked for, then the day it went out';
COMMENT ON COLUMN scheduler.customer.reminded_by     IS 'That reminder, until it is known how it ended';
COMMENT ON COLUMN scheduler.customer.reminded_before IS 'The date before it, to go back to if that reminder does not go out';
COMMENT ON COLUMN scheduler.customer.in_flight       IS 'Reminders that the notifier has not told the end of yet: another one waits for them';

CREATE TABLE scheduler.invoice (
    merchant        text        NOT NULL,
    invoice         text        NOT NULL,
    customer        text        NOT NULL,
    version         bigint      NOT NULL,
    epoch           integer     NOT NULL,
    epoch_began_at  timestamptz,
    status          text        NOT NULL,
    currency        text        NOT NULL,
    open_minor      bigint      NOT NULL,
    due_on          date,
    disputed        boolean     NOT NULL,
    overdue_hint    boolean     NOT NULL,
    failed_attempts integer     NOT NULL,
    last_failed_at  timestamptz,
    PRIMARY KEY (merchant, invoice)
) WITH (fillfactor = 80);

COMMENT ON TABLE  scheduler.invoice IS 'The latest snapshot of each invoice, as far as planning needs it; columns as in dunlin.events.v1.Invoice';
COMMENT ON COLUMN scheduler.invoice.merchant        IS 'Whose';
COMMENT ON COLUMN scheduler.invoice.invoice         IS 'The processor''s id';
COMMENT ON COLUMN scheduler.invoice.customer        IS 'The processor''s id of the customer';
COMMENT ON COLUMN scheduler.invoice.version         IS 'Of the snapshot: a lower one never replaces a higher one';
COMMENT ON COLUMN scheduler.invoice.epoch           IS '1, and one more after each chargeback or late failure';
COMMENT ON COLUMN scheduler.invoice.epoch_began_at  IS 'Business time; unset in the first epoch';
COMMENT ON COLUMN scheduler.invoice.status          IS 'open, paid, void or written_off';
COMMENT ON COLUMN scheduler.invoice.currency        IS 'ISO 4217';
COMMENT ON COLUMN scheduler.invoice.open_minor      IS 'Still owed, in minor units';
COMMENT ON COLUMN scheduler.invoice.due_on          IS 'Civil date';
COMMENT ON COLUMN scheduler.invoice.disputed        IS 'Holds the case';
COMMENT ON COLUMN scheduler.invoice.overdue_hint    IS 'The processor calls it overdue';
COMMENT ON COLUMN scheduler.invoice.failed_attempts IS 'In this epoch';
COMMENT ON COLUMN scheduler.invoice.last_failed_at  IS 'Business time';

CREATE TABLE scheduler.dunning_case (
    id                  uuid        PRIMARY KEY,
    merchant            text        NOT NULL,
    invoice             text        NOT NULL,
    epoch               integer     NOT NULL,
    customer            text        NOT NULL,
    shard               smallint    NOT NULL,
    campaign            text        NOT NULL,
    campaign_version    text        NOT NULL,
    opened_at           timestamptz NOT NULL,
    opened_traceparent  text,
    closed_at           timestamptz,
    closed_reason       text,
    closed_traceparent  text,
    overdue_told_at     timestamptz,
    overdue_traceparent text,
    armed_at            timestamptz,
    generation          integer     NOT NULL DEFAULT 0,
    UNIQUE (merchant, invoice, epoch),
    CHECK (closed_at IS NULL OR armed_at IS NULL)
) WITH (fillfactor = 80);

COMMENT ON TABLE  scheduler.dunning_case IS 'One invoice in one epoch following one campaign version. Closing it cancels, for the reason given, every step that has no decision';
COMMENT ON COLUMN scheduler.dunning_case.id                  IS 'UUIDv5 of merchant, invoice and epoch';
COMMENT ON COLUMN scheduler.dunning_case.merchant            IS 'Whose';
COMMENT ON COLUMN scheduler.dunning_case.invoice             IS 'The processor''s id';
COMMENT ON COLUMN scheduler.dunning_case.epoch               IS 'Of the invoice';
COMMENT ON COLUMN scheduler.dunning_case.customer            IS 'The processor''s id of the customer';
COMMENT ON COLUMN scheduler.dunning_case.shard               IS 'Of the customer, 0 to 63';
COMMENT ON COLUMN scheduler.dunning_case.campaign            IS 'Campaign it follows';
COMMENT ON COLUMN scheduler.dunning_case.campaign_version    IS 'Version it began with and keeps';
COMMENT ON COLUMN scheduler.dunning_case.opened_at           IS 'Business time';
COMMENT ON COLUMN scheduler.dunning_case.opened_traceparent  IS 'Trace of the event that opened it';
COMMENT ON COLUMN scheduler.dunning_case.closed_at           IS 'Business time at which the scheduler knew';
COMMENT ON COLUMN scheduler.dunning_case.closed_reason       IS 'paid, void, written_off or next_epoch';
COMMENT ON COLUMN scheduler.dunning_case.closed_traceparent  IS 'Trace of the event that closed it';
COMMENT ON COLUMN scheduler.dunning_case.overdue_told_at     IS 'When invoice-overdue was emitted; once per case';
COMMENT ON COLUMN scheduler.dunning_case.overdue_traceparent IS 'Trace of the timer that fired then';
COMMENT ON COLUMN scheduler.dunning_case.armed_at            IS 'due_at of its timer, if it has one';
COMMENT ON COLUMN scheduler.dunning_case.generation          IS 'Of its timer: a timer of another generation does nothing';

CREATE INDEX dunning_case_customer ON scheduler.dunning_case (merchant, customer) WHERE closed_at IS NULL;

CREATE TABLE scheduler.timer (
    shard       smallint    NOT NULL,
    due_at      timestamptz NOT NULL,
    case_id     uuid        NOT NULL,
    generation  integer     NOT NULL,
    traceparent text,
    PRIMARY KEY (shard, due_at, case_id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

COMMENT ON TABLE  scheduler.timer IS 'When to plan a case again. At most one per case; insert and delete only; no lower bound on due_at: downtime delays, never drops';
COMMENT ON COLUMN scheduler.timer.shard       IS 'Of the case''s customer';
COMMENT ON COLUMN scheduler.timer.due_at      IS 'Business time; derived from local dates and times, never earlier than they say';
COMMENT ON COLUMN scheduler.timer.case_id     IS 'The case';
COMMENT ON COLUMN scheduler.timer.generation  IS 'Must be the case''s';
COMMENT ON COLUMN scheduler.timer.traceparent IS 'Trace that armed it';

CREATE TABLE scheduler.decision (
    case_id     uuid        NOT NULL,
    step        text        NOT NULL,
    outcome     text        NOT NULL,
    reason      text        NOT NULL,
    reminder_id uuid,
    speaks      boolean     NOT NULL,
    segment     text        NOT NULL,
    decided_on  date        NOT NULL,
    decided_at  timestamptz NOT NULL,
    settled_at  timestamptz,
    traceparent text,
    PRIMARY KEY (case_id, step)
) WITH (fillfactor = 80);

COMMENT ON TABLE  scheduler.decision IS 'What became of each step whose time came. The primary key is the step key: nothing is ever decided twice';
COMMENT ON COLUMN scheduler.decision.case_id     IS 'Stands for merchant, invoice and epoch';
COMMENT ON COLUMN scheduler.decision.step        IS 'Key in the campaign';
COMMENT ON COLUMN scheduler.decision.outcome     IS 'requested until the notifier has answered; then sent, cancelled, failed or unknown; or at once skipped or merged. Merged into another invoice''s reminder it becomes cancelled or failed if it was not in the message';
COMMENT ON COLUMN scheduler.decision.reason      IS 'Machine-readable';
COMMENT ON COLUMN scheduler.decision.reminder_id IS 'The reminder that carries or merged it';
COMMENT ON COLUMN scheduler.decision.speaks      IS 'The step that speaks for its own invoice: follow-ups count from it';
COMMENT ON COLUMN scheduler.decision.segment     IS 'The customer''s, then';
COMMENT ON COLUMN scheduler.decision.decided_on  IS 'The payer''s date';
COMMENT ON COLUMN scheduler.decision.decided_at  IS 'Business time';
COMMENT ON COLUMN scheduler.decision.settled_at  IS 'Business time of the final outcome, where it came later';
COMMENT ON COLUMN scheduler.decision.traceparent IS 'Trace of the decision';

CREATE TABLE scheduler.deferral (
    case_id     uuid        NOT NULL,
    until       timestamptz NOT NULL,
    reason      text        NOT NULL,
    steps       text[]      NOT NULL,
    deferred_at timestamptz NOT NULL,
    PRIMARY KEY (case_id, until, reason)
);

COMMENT ON TABLE  scheduler.deferral IS 'Why steps that were due had to wait. Insert only';
COMMENT ON COLUMN scheduler.deferral.case_id     IS 'The case';
COMMENT ON COLUMN scheduler.deferral.until       IS 'Business time of the next look';
COMMENT ON COLUMN scheduler.deferral.reason      IS 'min_gap, in_flight or contact_hours';
COMMENT ON COLUMN scheduler.deferral.steps       IS 'Keys of the steps that wait';
COMMENT ON COLUMN scheduler.deferral.deferred_at IS 'Business time';
