-- put_changes.sql($1 repo_id, $2 snapshot, then an array for each column; $10 the position before): moves of one snapshot that
-- take the place of others, each with the moment that it led to.
insert into ref_change (repo_id, snapshot, position, ref_id, old, new, kind, pushed_by, pushed_at, moment)
select $1::uuid, $2::int, $10::int + position, ref_id, old, new, kind, pushed_by, pushed_at, nullif(moment, 0)
from unnest($3::bigint[], $4::bytea[], $5::bytea[], $6::text[], $7::text[], $8::timestamptz[], $9::int[])
  with ordinality as given (ref_id, old, new, kind, pushed_by, pushed_at, moment, position)
