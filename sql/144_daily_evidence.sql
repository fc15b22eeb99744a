-- 144_daily_evidence.sql: what the rotation read of a team's repos each day, in signed statements.

-- A row is the statement about one team and one day (UTC) that is over, in the vault or on its way there.
create table daily_evidence (
  team_id uuid        not null references team on delete cascade,
  day     date        not null,
  key     text        not null unique,  -- in the vault
  at      timestamptz not null,         -- when it was signed
  passed  boolean     not null,         -- nothing that was read was missing or changed
  key_id  text        not null,         -- of the key that signed it
  sha256  text        not null,         -- of the stored bytes
  body    bytea,                        -- null: it is in the vault
  primary key (team_id, day)
);
create index daily_evidence_waiting on daily_evidence (at) where body is not null;
