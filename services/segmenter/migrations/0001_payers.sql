-- Names are compared byte by byte, whatever the database's collation: rows are locked and paged in this order.

CREATE TABLE segmenter.invoice (
    merchant  text     COLLATE "C" NOT NULL,
    invoice   text     COLLATE "C" NOT NULL,
    version   bigint   NOT NULL,
    customer  text     COLLATE "C" NOT NULL,
    issued_on date     NOT NULL,
    due_on    date,
    paid_on   date,
    open      boolean  NOT NULL,
    settled   boolean  NOT NULL,
    segment   smallint NOT NULL,
    fault     text     NOT NULL,
    PRIMARY KEY (merchant, invoice)
);
-- What is open and overdue is asked for with every settlement of a customer and every day for all, all that is settled when its state is to be folded anew.
CREATE INDEX invoice_open ON segmenter.invoice (merchant, customer, due_on) WHERE open;
CREATE INDEX invoice_settled ON segmenter.invoice (merchant, customer) WHERE settled;

COMMENT ON TABLE  segmenter.invoice IS 'What each invoice says about how its customer pays';
COMMENT ON COLUMN segmenter.invoice.merchant  IS 'Whose';
COMMENT ON COLUMN segmenter.invoice.invoice   IS 'The processor''s id';
COMMENT ON COLUMN segmenter.invoice.version   IS 'Of the snapshot: a lower one never replaces a higher one';
COMMENT ON COLUMN segmenter.invoice.customer  IS 'Whose behaviour it shows';
COMMENT ON COLUMN segmenter.invoice.issued_on IS 'Date of issue in the merchant''s zone';
COMMENT ON COLUMN segmenter.invoice.due_on    IS 'Due date, on a weekend the Monday after it; null if it has none';
COMMENT ON COLUMN segmenter.invoice.paid_on   IS 'Day of payment in the merchant''s zone; null if it is not paid';
COMMENT ON COLUMN segmenter.invoice.open      IS 'Whether it counts as unpaid once its due date has passed: owed, undisputed, with dates that make sense';
COMMENT ON COLUMN segmenter.invoice.settled   IS 'Whether its delay counts: paid, and with dates that make sense';
COMMENT ON COLUMN segmenter.invoice.segment   IS 'By its terms, as the crate payer numbers segments: invoices with like terms are paid alike';
COMMENT ON COLUMN segmenter.invoice.fault     IS 'What is wrong with its dates, so that it does not count: paid_before_issue or absurd_date; empty if nothing is';

CREATE TABLE segmenter.payer (
    merchant text   COLLATE "C" NOT NULL,
    customer text   COLLATE "C" NOT NULL,
    revision bigint NOT NULL,
    state    bytea  STORAGE PLAIN NOT NULL,
    told     bytea  STORAGE PLAIN NOT NULL,
    PRIMARY KEY (merchant, customer)
) WITH (fillfactor = 70);

COMMENT ON TABLE  segmenter.payer IS 'How each customer pays: the fold of its settled invoices in the order (paid_on, hash of the invoice)';
COMMENT ON COLUMN segmenter.payer.merchant IS 'Whose';
COMMENT ON COLUMN segmenter.payer.customer IS 'The processor''s id';
COMMENT ON COLUMN segmenter.payer.revision IS 'Counts changes of this row: a state that was read at another revision is not written. The version in customer-segmented';
COMMENT ON COLUMN segmenter.payer.state    IS 'Bytes 1 to 112: version, 24 counts, settled, late, last delay; 113 to 120: label and CUSUM, which depend on when things were seen; 121 to 128: day and hash of the last settlement';
COMMENT ON COLUMN segmenter.payer.told     IS 'Segment of the last settlement; then what was told last, if anything was: label, P(late) and P(more than 7 days late) in 1/250, the three quantiles in days, and P(late) of the portfolio in 1/250, 255 if too few had paid';

CREATE TABLE segmenter.portfolio_week (
    merchant text      COLLATE "C" NOT NULL,
    pool     smallint  NOT NULL,
    week     date      NOT NULL,
    counts   integer[] NOT NULL,
    PRIMARY KEY (merchant, pool, week)
) WITH (fillfactor = 50);

COMMENT ON TABLE  segmenter.portfolio_week IS 'How all customers of a merchant paid in each week. Sums: the order of settlements does not matter, and one that is taken back is subtracted. Weeks older than two years are not read, and deleted some time';
COMMENT ON COLUMN segmenter.portfolio_week.merchant IS 'Whose';
COMMENT ON COLUMN segmenter.portfolio_week.pool     IS 'Below 256: the segment of the invoice. From 256 on: the group of peers that its customer belonged to before this payment';
COMMENT ON COLUMN segmenter.portfolio_week.week     IS 'The Monday of the week in which it was paid';
COMMENT ON COLUMN segmenter.portfolio_week.counts   IS 'Settlements by bin of delay: 24 of them, as the crate payer lists them';

CREATE TABLE segmenter.review (
    merchant    text    COLLATE "C" PRIMARY KEY,
    day         date    NOT NULL,
    week        date    NOT NULL,
    settlements bigint  NOT NULL,
    after       text    COLLATE "C",
    everybody   boolean NOT NULL,
    spread      double precision[] NOT NULL,
    kappa       real
);

COMMENT ON TABLE  segmenter.review IS 'How far the daily review of each merchant''s customers has come';
COMMENT ON COLUMN segmenter.review.merchant    IS 'Whose';
COMMENT ON COLUMN segmenter.review.day         IS 'The day in the merchant''s zone for which the latest review began';
COMMENT ON COLUMN segmenter.review.week        IS 'The Monday of the week in which everybody was reviewed last';
COMMENT ON COLUMN segmenter.review.settlements IS 'How many settlements the portfolio held at that time';
COMMENT ON COLUMN segmenter.review.after       IS 'The customer up to which the running review has come, empty at its beginning; null when it is done';
COMMENT ON COLUMN segmenter.review.everybody   IS 'Whether the latest review is of everybody, or only of who is overdue';
COMMENT ON COLUMN segmenter.review.spread      IS 'Sums over the customers reviewed so far, from which kappa follows';
COMMENT ON COLUMN segmenter.review.kappa       IS 'How many settlements the merchant''s portfolio weighs in the estimate of a customer, as of the last review of everybody; null: as usual';

CREATE TABLE segmenter.label_change (
    merchant text        COLLATE "C" NOT NULL,
    customer text        COLLATE "C" NOT NULL,
    revision bigint      NOT NULL,
    place    smallint    NOT NULL,
    at       timestamptz NOT NULL,
    label    text        NOT NULL,
    before   text        NOT NULL,
    reason   text        NOT NULL,
    PRIMARY KEY (merchant, customer, revision, place)
);
CREATE INDEX label_change_at ON segmenter.label_change USING brin (at);

COMMENT ON TABLE  segmenter.label_change IS 'Each change of a customer''s label, with its reason, for 400 days';
COMMENT ON COLUMN segmenter.label_change.merchant IS 'Whose';
COMMENT ON COLUMN segmenter.label_change.customer IS 'The processor''s id';
COMMENT ON COLUMN segmenter.label_change.revision IS 'Of the customer''s row, in which it came into force';
COMMENT ON COLUMN segmenter.label_change.place    IS 'The place among the changes of this revision: from 0';
COMMENT ON COLUMN segmenter.label_change.at       IS 'Business time';
COMMENT ON COLUMN segmenter.label_change.label    IS 'The label from then on';
COMMENT ON COLUMN segmenter.label_change.before   IS 'The label before';
COMMENT ON COLUMN segmenter.label_change.reason   IS 'Which threshold was met, and with which value';
