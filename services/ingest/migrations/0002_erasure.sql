CREATE TABLE ingest.erased (
    merchant  text        NOT NULL,
    name      text        NOT NULL,
    erased_at timestamptz NOT NULL,
    PRIMARY KEY (merchant, name)
);

COMMENT ON TABLE  ingest.erased IS 'Of whom nothing personal is taken in any more, whatever a processor says';
COMMENT ON COLUMN ingest.erased.merchant  IS 'Whose';
COMMENT ON COLUMN ingest.erased.name      IS 'customer:<id> or invoice:<id>';
COMMENT ON COLUMN ingest.erased.erased_at IS 'Business time';

CREATE TABLE ingest.erasure (
    id        bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    merchant  text        NOT NULL,
    customer  text        NOT NULL,
    erased_by text        NOT NULL,
    reason    text        NOT NULL,
    counts    jsonb       NOT NULL,
    erased_at timestamptz NOT NULL
);

COMMENT ON TABLE  ingest.erasure IS 'That data of persons were erased, for whoever asks later';
COMMENT ON COLUMN ingest.erasure.id        IS 'In the order of the erasures';
COMMENT ON COLUMN ingest.erasure.merchant  IS 'Whose customer';
COMMENT ON COLUMN ingest.erasure.customer  IS 'The processor''s id';
COMMENT ON COLUMN ingest.erasure.erased_by IS 'Who';
COMMENT ON COLUMN ingest.erasure.reason    IS 'Why, in their words';
COMMENT ON COLUMN ingest.erasure.counts    IS 'How many rows of what, in this service';
COMMENT ON COLUMN ingest.erasure.erased_at IS 'Business time';

CREATE INDEX erasure_customer ON ingest.erasure (merchant, customer);
