-- add_changes.sql($1 repo_id, $2 snapshot, then an array for each column; $9 ref ids, $10 targets): the moves of one
-- snapshot, in order, and the refs that came to a target in it.
with begun as (
  insert into ref_stay (ref_id, first_snapshot, target)
  select ref_id, $2::int, target from unnest($9::bigint[], $10::bytea[]) as given (ref_id, target)
)
insert into ref_change (repo_id, snapshot, position, ref_id, old, new, kind, pushed_by, pushed_at)
select $1::uuid, $2::int, position, ref_id, old, new, kind, pushed_by, pushed_at
from unnest($3::bigint[], $4::bytea[], $5::bytea[], $6::text[], $7::text[], $8::timestamptz[])
  with ordinality as given (ref_id, old, new, kind, pushed_by, pushed_at, position)
