-- read_lost_pushes.sql($1 repo, columns of pushes that could not be rescued): out of a note of the vault; what is known stays.
insert into lost_push (repo_id, noted, name, old, new, pushed_by, pushed_at, why, snapshot, noticed_at)
select $1, true, given.* from unnest(
  $2::bytea[], $3::bytea[], $4::bytea[], $5::text[], $6::timestamptz[], $7::text[], $8::int[], $9::timestamptz[]
) as given (name, old, new, pushed_by, pushed_at, why, snapshot, noticed_at)
where not exists (
  select from lost_push
  where lost_push.repo_id = $1 and lost_push.name = given.name and lost_push.new = given.new
    and lost_push.pushed_at = given.pushed_at and lost_push.noticed_at = given.noticed_at
)
