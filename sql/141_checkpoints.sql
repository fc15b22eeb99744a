-- 141_checkpoints.sql: the heads of all histories and audit logs, signed daily, so that rewriting any of them shows.

-- A row is one checkpoint, in the vault or on its way there.
create table checkpoint (
  number     int         primary key check (number > 0),  -- 1, 2, 3...
  at         timestamptz not null,
  size       int         not null check (size >= 0),       -- heads in it
  key_id     text        not null,                         -- of the key that signed it
  sha256     text        not null,                         -- of the stored bytes, which the next checkpoint names
  body       bytea,                                        -- null: it is in the vault
  leaves     bytea,                                        -- what its root was made of; null: that is in the vault
  stamped_at timestamptz                                   -- when an authority's time-stamp was stored; null: there is none
);
