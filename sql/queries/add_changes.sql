-- add_changes.sql($1 repo_id, $2 snapshot, then one array for each column): the moves of one snapshot, in order.
insert into ref_change (repo_id, snapshot, position, ref_id, old, new, kind, pushed_by, pushed_at)
select $1::uuid, $2::int, position, ref_id, old, new, kind, pushed_by, pushed_at
from unnest($3::bigint[], $4::bytea[], $5::bytea[], $6::text[], $7::text[], $8::timestamptz[])
  with ordinality as given (ref_id, old, new, kind, pushed_by, pushed_at, position)
