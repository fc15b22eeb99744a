-- 050_listing_failed.sql: a listing that failed stays said until one went well.

alter table connection
  add column list_failed_at timestamptz,  -- since when listing it fails; null: the last listing went well, or there was none
  add column list_failure   text,         -- the last failure, in a line
  add check (num_nulls(list_failed_at, list_failure) in (0, 2));
