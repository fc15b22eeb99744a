-- 145_time_stamps.sql: an authority may say when it saw a checkpoint (RFC 3161), where TIMESTAMP_URL names one.

alter table checkpoint
  add column stamped_at    timestamptz,  -- the authority's time; null: it was not stamped
  add column stamp_sha256  text,         -- of the authority's answer as it is stored
  add column stamp         bytea,        -- the answer, on its way into the vault; null: it is there, or there is none
  add column stamp_problem text,         -- why the last try failed; null: none did
  add check ((stamped_at is null) = (stamp_sha256 is null)),
  add check (stamp is null or stamped_at is not null);
