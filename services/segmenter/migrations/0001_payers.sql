CREATE TABLE segmenter.invoice (
    merchant text    NOT NULL,
    invoice  text    NOT NULL,
    version  bigint  NOT NULL,
    customer text    NOT NULL,
    settled  integer NOT NULL,
    late     integer NOT NULL,
    PRIMARY KEY (merchant, invoice)
) WITH (fillfactor = 80);

COMMENT ON TABLE  segmenter.invoice IS 'What each invoice contributes to its customer''s history';
COMMENT ON COLUMN segmenter.invoice.merchant IS 'Whose';
COMMENT ON COLUMN segmenter.invoice.invoice  IS 'The processor''s id';
COMMENT ON COLUMN segmenter.invoice.version  IS 'Of the snapshot: a lower one never replaces a higher one';
COMMENT ON COLUMN segmenter.invoice.customer IS 'Whose history it contributes to';
COMMENT ON COLUMN segmenter.invoice.settled  IS '1 if it had a due date and was paid';
COMMENT ON COLUMN segmenter.invoice.late     IS '1 if that was after the due date, in the merchant''s zone';

CREATE TABLE segmenter.payer (
    merchant text    NOT NULL,
    customer text    NOT NULL,
    version  bigint  NOT NULL,
    settled  integer NOT NULL,
    late     integer NOT NULL,
    segment  text    NOT NULL,
    PRIMARY KEY (merchant, customer)
) WITH (fillfactor = 80);

COMMENT ON TABLE  segmenter.payer IS 'The history of each customer, as the sum of its invoices'' contributions';
COMMENT ON COLUMN segmenter.payer.merchant IS 'Whose';
COMMENT ON COLUMN segmenter.payer.customer IS 'The processor''s id';
COMMENT ON COLUMN segmenter.payer.version  IS 'Counts changes of the segment; the version in customer-segmented';
COMMENT ON COLUMN segmenter.payer.settled  IS 'Invoices with a due date that were paid';
COMMENT ON COLUMN segmenter.payer.late     IS 'Those of them that were paid after it';
COMMENT ON COLUMN segmenter.payer.segment  IS 'new, prompt, mixed, usually_late, chronically_late or at_risk, as told last';
