CREATE TABLE scheduler.campaign (
    name          text        NOT NULL,
    version       text        NOT NULL,
    text          text        NOT NULL,
    steps         text[]      NOT NULL,
    in_force_from timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (name, version)
);

COMMENT ON TABLE  scheduler.campaign IS 'Every version of every campaign that was ever in force: running cases stay on theirs';
COMMENT ON COLUMN scheduler.campaign.name          IS 'File name without its ending';
COMMENT ON COLUMN scheduler.campaign.version       IS 'Hash of the text';
COMMENT ON COLUMN scheduler.campaign.text          IS 'The file';
COMMENT ON COLUMN scheduler.campaign.steps         IS 'Keys of its steps, in their order: what is not decided when a case closes is cancelled';
COMMENT ON COLUMN scheduler.campaign.in_force_from IS 'Machine time from which new cases began on it, the last time it came into force: of several versions the latest stays in force when a file has a fault';

CREATE TABLE scheduler.customer (
    merchant        text    NOT NULL,
    customer        text    NOT NULL,
    version         bigint  NOT NULL DEFAULT 0,
    time_zone       text    NOT NULL DEFAULT '',
    deleted         boolean NOT NULL DEFAULT false,
    segment         text    NOT NULL DEFAULT 'new',
    segment_version bigint  NOT NULL DEFAULT 0,
    opted_out       boolean NOT NULL DEFAULT false,
    country         text    NOT NULL DEFAULT '',
    tags            text[]  NOT NULL DEFAULT '{}',
    payer_kind      text    NOT NULL DEFAULT '',
    campaign        text    NOT NULL DEFAULT '',
    outlook         bytea,
    PRIMARY KEY (merchant, customer)
) WITH (fillfactor = 80);

COMMENT ON TABLE  scheduler.customer IS 'What planning needs to know of a customer';
COMMENT ON COLUMN scheduler.customer.merchant        IS 'Whose';
COMMENT ON COLUMN scheduler.customer.customer        IS 'The processor''s id';
COMMENT ON COLUMN scheduler.customer.version         IS 'Of the snapshot from customer-changed; 0 if none has come';
COMMENT ON COLUMN scheduler.customer.time_zone       IS 'IANA zone; empty: the merchant''s';
COMMENT ON COLUMN scheduler.customer.deleted         IS 'Nobody is left to write to';
COMMENT ON COLUMN scheduler.customer.segment         IS 'new, prompt, mixed, usually_late, chronically_late or at_risk';
COMMENT ON COLUMN scheduler.customer.segment_version IS 'Of the last customer-segmented';
COMMENT ON COLUMN scheduler.customer.opted_out       IS 'Asked not to be reminded';
COMMENT ON COLUMN scheduler.customer.country         IS 'ISO 3166-1 alpha-2; empty: the merchant''s';
COMMENT ON COLUMN scheduler.customer.tags            IS 'The merchant''s labels';
COMMENT ON COLUMN scheduler.customer.payer_kind      IS 'business or consumer; empty: the merchant''s usual kind';
COMMENT ON COLUMN scheduler.customer.campaign        IS 'Chosen for this customer; empty: by audience';
COMMENT ON COLUMN scheduler.customer.outlook         IS 'What its history says, from the last customer-segmented: dunlin.events.v1.Outlook';

CREATE TABLE scheduler.reminder (
    merchant    text    NOT NULL,
    customer    text    NOT NULL,
    reminder_id uuid    NOT NULL,
    state       text    NOT NULL DEFAULT 'in_flight',
    on_day      date    NOT NULL,
    PRIMARY KEY (merchant, customer, reminder_id),
    CHECK (state IN ('in_flight', 'sent', 'unknown', 'gone'))
) WITH (fillfactor = 80);

COMMENT ON TABLE  scheduler.reminder IS 'Every reminder that was asked for: gaps and caps of a customer are counted here, across invoices and campaigns';
COMMENT ON COLUMN scheduler.reminder.merchant    IS 'Whose';
COMMENT ON COLUMN scheduler.reminder.customer    IS 'To whom';
COMMENT ON COLUMN scheduler.reminder.reminder_id IS 'The reminder';
COMMENT ON COLUMN scheduler.reminder.state       IS 'in_flight until the notifier has told its end: another one waits for it; then sent, unknown (it may have arrived) or gone (it did not go out, and counts for nothing)';
COMMENT ON COLUMN scheduler.reminder.on_day      IS 'The payer''s day on which it was asked for, then that on which it went out';

CREATE INDEX reminder_on_day ON scheduler.reminder USING brin (on_day);

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
    source          text        NOT NULL,
    tags            text[]      NOT NULL,
    campaign        text        NOT NULL,
    collects_itself boolean     NOT NULL,
    pending_since   timestamptz,
    decline_code    text        NOT NULL,
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
COMMENT ON COLUMN scheduler.invoice.source          IS 'Who told of it: stripe, grpc, nats or file';
COMMENT ON COLUMN scheduler.invoice.tags            IS 'The merchant''s labels';
COMMENT ON COLUMN scheduler.invoice.campaign        IS 'Chosen for this invoice; empty: by customer and audience';
COMMENT ON COLUMN scheduler.invoice.collects_itself IS 'The processor collects by itself: holds the case until that fails';
COMMENT ON COLUMN scheduler.invoice.pending_since   IS 'Business time since when money is under way: holds the case';
COMMENT ON COLUMN scheduler.invoice.decline_code    IS 'The processor''s reason of the last failure in this epoch';

CREATE INDEX invoice_disputed ON scheduler.invoice (merchant) WHERE status = 'open' AND disputed;
CREATE INDEX invoice_open_balance ON scheduler.invoice (merchant, customer) INCLUDE (currency, open_minor) WHERE status = 'open';

CREATE TABLE scheduler.source (
    merchant text        NOT NULL,
    source   text        NOT NULL,
    heard_at timestamptz NOT NULL,
    PRIMARY KEY (merchant, source)
);

COMMENT ON TABLE  scheduler.source IS 'When each processor was heard of last: one that is silent for too long holds the cases that it could change';
COMMENT ON COLUMN scheduler.source.merchant IS 'Whose';
COMMENT ON COLUMN scheduler.source.source   IS 'stripe, grpc, nats or file';
COMMENT ON COLUMN scheduler.source.heard_at IS 'Business time';

CREATE TABLE scheduler.ramp (
    merchant text    NOT NULL,
    campaign text    NOT NULL,
    day      date    NOT NULL,
    taken    integer NOT NULL,
    PRIMARY KEY (merchant, campaign, day)
);

COMMENT ON TABLE  scheduler.ramp IS 'How many late invoices begin on each day, where a campaign limits that';
COMMENT ON COLUMN scheduler.ramp.merchant IS 'Whose';
COMMENT ON COLUMN scheduler.ramp.campaign IS 'The campaign';
COMMENT ON COLUMN scheduler.ramp.day      IS 'Payers'' date';
COMMENT ON COLUMN scheduler.ramp.taken    IS 'Invoices';

CREATE TABLE scheduler.dunning_case (
    id                  uuid        PRIMARY KEY,
    merchant            text        NOT NULL,
    invoice             text        NOT NULL,
    epoch               integer     NOT NULL,
    customer            text        NOT NULL,
    shard               smallint    NOT NULL,
    campaign            text        NOT NULL,
    campaign_version    text        NOT NULL,
    chosen_by           text        NOT NULL DEFAULT '',
    not_before          date,
    opened_at           timestamptz NOT NULL,
    opened_traceparent  text,
    ended_at            timestamptz,
    ended_as            text,
    closed_at           timestamptz,
    closed_reason       text,
    closed_traceparent  text,
    overdue_told_at     timestamptz,
    overdue_traceparent text,
    armed_at            timestamptz,
    generation          integer     NOT NULL DEFAULT 0,
    enrolment           json,
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
COMMENT ON COLUMN scheduler.dunning_case.campaign            IS 'Campaign it follows; empty while none fits. It may change until the first step is decided';
COMMENT ON COLUMN scheduler.dunning_case.campaign_version    IS 'Version it began with and keeps, unless an operator migrates it';
COMMENT ON COLUMN scheduler.dunning_case.chosen_by           IS 'What chose the campaign: invoice, customer, or campaigns.<place in the merchant''s order>; without a campaign why there is none';
COMMENT ON COLUMN scheduler.dunning_case.not_before          IS 'Payer''s date before which a late invoice sends nothing: its turn in the ramp';
COMMENT ON COLUMN scheduler.dunning_case.opened_at           IS 'Business time';
COMMENT ON COLUMN scheduler.dunning_case.opened_traceparent  IS 'Trace of the event that opened it';
COMMENT ON COLUMN scheduler.dunning_case.ended_at            IS 'Business time at which the sequence of reminders ended while money was still owed';
COMMENT ON COLUMN scheduler.dunning_case.ended_as            IS 'hand_over (waits for a person until the invoice closes), webhook or stop';
COMMENT ON COLUMN scheduler.dunning_case.closed_at           IS 'Business time at which the scheduler knew';
COMMENT ON COLUMN scheduler.dunning_case.closed_reason       IS 'paid, void, written_off or next_epoch';
COMMENT ON COLUMN scheduler.dunning_case.closed_traceparent  IS 'Trace of the event that closed it';
COMMENT ON COLUMN scheduler.dunning_case.overdue_told_at     IS 'When invoice-overdue was emitted; once per case';
COMMENT ON COLUMN scheduler.dunning_case.overdue_traceparent IS 'Trace of the timer that fired then';
COMMENT ON COLUMN scheduler.dunning_case.armed_at            IS 'due_at of its timer, if it has one';
COMMENT ON COLUMN scheduler.dunning_case.generation          IS 'Of its timer: a timer of another generation does nothing';
COMMENT ON COLUMN scheduler.dunning_case.enrolment           IS 'The schedule and the arms that were drawn for it, with their probabilities; null if its campaign suits itself to nobody';

CREATE INDEX dunning_case_customer ON scheduler.dunning_case (merchant, customer) WHERE closed_at IS NULL;
CREATE INDEX dunning_case_handed_over ON scheduler.dunning_case (merchant) WHERE closed_at IS NULL AND ended_as = 'hand_over';

-- Not by campaign: an index on a column that changes costs all cases an entry in each index.
CREATE INDEX dunning_case_enrolled ON scheduler.dunning_case (merchant, opened_at) WHERE enrolment IS NOT NULL;

CREATE TABLE scheduler.policy (
    merchant         text NOT NULL,
    campaign         text NOT NULL,
    campaign_version text NOT NULL,
    step             text NOT NULL,
    week             date NOT NULL,
    propensities     json NOT NULL,
    PRIMARY KEY (merchant, campaign, campaign_version, step, week)
);

COMMENT ON TABLE  scheduler.policy IS 'With which probability each arm of a step''s experiment is drawn for the cases opened in a week; never changed';
COMMENT ON COLUMN scheduler.policy.merchant         IS 'Whose';
COMMENT ON COLUMN scheduler.policy.campaign         IS 'The campaign';
COMMENT ON COLUMN scheduler.policy.campaign_version IS 'Its version';
COMMENT ON COLUMN scheduler.policy.step             IS 'Key in the campaign';
COMMENT ON COLUMN scheduler.policy.week             IS 'Monday, UTC: learned from what was known before it';
COMMENT ON COLUMN scheduler.policy.propensities     IS 'Over all customers and by segment, in the order of the arms';

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

CREATE TABLE scheduler.zones (
    only_row    boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    fingerprint text    NOT NULL
);

COMMENT ON TABLE  scheduler.zones IS 'The time zone data that timers were derived from: when it changes, those of open cases are derived anew';
COMMENT ON COLUMN scheduler.zones.only_row    IS 'There is one';
COMMENT ON COLUMN scheduler.zones.fingerprint IS 'Hash of all changes of all zones over some decades';

CREATE TABLE scheduler.decision (
    case_id     uuid        NOT NULL,
    step        text        NOT NULL,
    outcome     text        NOT NULL,
    reason      text        NOT NULL,
    reminder_id uuid,
    speaks      boolean     NOT NULL,
    segment     text        NOT NULL,
    rule        text        NOT NULL,
    inputs      json        NOT NULL,
    campaign_version text   NOT NULL,
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
COMMENT ON COLUMN scheduler.decision.rule        IS 'What in the campaign, the law or the operation caused it, such as steps.upcoming.only_if.segment';
COMMENT ON COLUMN scheduler.decision.inputs      IS 'What was known then, as far as it counts: due date, open amount, country, days of the last reminders. No personal data';
COMMENT ON COLUMN scheduler.decision.campaign_version IS 'Version of the campaign that was asked';
COMMENT ON COLUMN scheduler.decision.decided_on  IS 'The payer''s date; once a reminder went out, the day on which it did: what follows counts from it';
COMMENT ON COLUMN scheduler.decision.decided_at  IS 'Business time';
COMMENT ON COLUMN scheduler.decision.settled_at  IS 'Business time of the final outcome, where it came later';
COMMENT ON COLUMN scheduler.decision.traceparent IS 'Trace of the decision';

CREATE TABLE scheduler.deferral (
    case_id     uuid        NOT NULL,
    until       timestamptz,
    reason      text        NOT NULL,
    rule        text        NOT NULL,
    steps       text[]      NOT NULL,
    deferred_at timestamptz NOT NULL,
    UNIQUE NULLS NOT DISTINCT (case_id, until, reason, rule, steps)
);

COMMENT ON TABLE  scheduler.deferral IS 'Why steps that were due had to wait; the same wait is kept once. Insert only';
COMMENT ON COLUMN scheduler.deferral.case_id     IS 'The case';
COMMENT ON COLUMN scheduler.deferral.until       IS 'Business time of the next look; unset: until there is news, or a person ends it';
COMMENT ON COLUMN scheduler.deferral.reason      IS 'Machine-readable, such as min_gap, dispute or contact_hours';
COMMENT ON COLUMN scheduler.deferral.rule        IS 'What in the campaign, the law or the operation caused it';
COMMENT ON COLUMN scheduler.deferral.steps       IS 'Keys of the steps that wait';
COMMENT ON COLUMN scheduler.deferral.deferred_at IS 'Business time';

CREATE INDEX deferral_deferred_at ON scheduler.deferral USING brin (deferred_at);

CREATE TABLE scheduler.dead_end (
    merchant text NOT NULL,
    customer text NOT NULL,
    channel  text NOT NULL,
    PRIMARY KEY (merchant, customer, channel)
);

COMMENT ON TABLE  scheduler.dead_end IS 'Ways by which customers could not be reached once and for all: when a campaign has no other, a person has to look, and when that person releases the hold they are open again';
COMMENT ON COLUMN scheduler.dead_end.merchant IS 'Whose';
COMMENT ON COLUMN scheduler.dead_end.customer IS 'The processor''s id';
COMMENT ON COLUMN scheduler.dead_end.channel  IS 'email, sms, webhook or task';

CREATE TABLE scheduler.hold (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    merchant    text        NOT NULL,
    customer    text        NOT NULL,
    invoice     text,
    kind        text        NOT NULL,
    until       date,
    reason      text        NOT NULL,
    placed_by   text        NOT NULL,
    placed_at   timestamptz NOT NULL,
    released_by text,
    released_at timestamptz,
    release_reason text     NOT NULL DEFAULT '',
    CHECK (kind IN ('manual', 'promise', 'bounced', 'complained', 'replied', 'erased')),
    CHECK (kind <> 'promise' OR until IS NOT NULL)
);

COMMENT ON TABLE  scheduler.hold IS 'What people said that holds cases: an operator''s hold, or a promise to pay';
COMMENT ON COLUMN scheduler.hold.id          IS 'What operators call it';
COMMENT ON COLUMN scheduler.hold.merchant    IS 'Whose';
COMMENT ON COLUMN scheduler.hold.customer    IS 'Whom it is about';
COMMENT ON COLUMN scheduler.hold.invoice     IS 'Only this invoice; unset: all of the customer';
COMMENT ON COLUMN scheduler.hold.kind        IS 'manual or promise, placed by a person; bounced, complained or replied, placed by what came back of a reminder';
COMMENT ON COLUMN scheduler.hold.until       IS 'Payer''s date: the last one of a manual hold, the promised one of a promise; unset: until somebody releases it';
COMMENT ON COLUMN scheduler.hold.reason      IS 'In the operator''s words, or ours';
COMMENT ON COLUMN scheduler.hold.placed_by   IS 'Who; dunlin: what came back of a reminder';
COMMENT ON COLUMN scheduler.hold.placed_at   IS 'Business time';
COMMENT ON COLUMN scheduler.hold.released_by IS 'Who ended it, if somebody did';
COMMENT ON COLUMN scheduler.hold.released_at IS 'Business time';
COMMENT ON COLUMN scheduler.hold.release_reason IS 'In the operator''s words';

CREATE INDEX hold_customer ON scheduler.hold (merchant, customer) WHERE released_at IS NULL;

CREATE TABLE scheduler.migration (
    case_id      uuid        NOT NULL,
    from_version text        NOT NULL,
    to_version   text        NOT NULL,
    migrated_by  text        NOT NULL,
    migrated_at  timestamptz NOT NULL,
    PRIMARY KEY (case_id, migrated_at)
);

COMMENT ON TABLE  scheduler.migration IS 'Running cases that an operator put on another version of their campaign. Insert only';
COMMENT ON COLUMN scheduler.migration.case_id      IS 'The case';
COMMENT ON COLUMN scheduler.migration.from_version IS 'The version that it was on';
COMMENT ON COLUMN scheduler.migration.to_version   IS 'The version that it is on since then';
COMMENT ON COLUMN scheduler.migration.migrated_by  IS 'Who';
COMMENT ON COLUMN scheduler.migration.migrated_at  IS 'Business time';

CREATE VIEW scheduler.step_decision AS
SELECT c.merchant, c.customer, c.invoice, c.epoch, d.step, d.outcome, d.reason, d.rule, c.campaign, d.campaign_version,
       d.inputs, coalesce(d.settled_at, d.decided_at) AS at
FROM scheduler.decision AS d JOIN scheduler.dunning_case AS c ON c.id = d.case_id
UNION ALL
SELECT c.merchant, c.customer, c.invoice, c.epoch, step, 'cancelled', c.closed_reason, 'invoice.status', c.campaign,
       c.campaign_version, '{}', c.closed_at
FROM scheduler.dunning_case AS c
JOIN scheduler.campaign AS k ON k.name = c.campaign AND k.version = c.campaign_version
CROSS JOIN UNNEST(k.steps) AS step
WHERE c.closed_at IS NOT NULL
  AND NOT EXISTS (SELECT FROM scheduler.decision AS d WHERE d.case_id = c.id AND d.step = step);

COMMENT ON VIEW scheduler.step_decision IS 'The decision log: one row for each decided step of each case. What a closed case had not decided is cancelled by its closing, so every step of a closed case has exactly one';
