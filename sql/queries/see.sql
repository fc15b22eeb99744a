-- see.sql($1 connection, $2 now, then an array for each column): these repositories are listed now.
insert into listed (
  connection_id, seen_at, repository_id, full_name, clone_url, web_url, private, archived, fork, admin, bytes, pushed_at
)
select $1, $2, given.*
from unnest(
  $3::text[], $4::text[], $5::text[], $6::text[], $7::bool[], $8::bool[], $9::bool[], $10::bool[], $11::bigint[], $12::timestamptz[]
) as given
on conflict (connection_id, repository_id) do update set
  full_name = excluded.full_name, clone_url = excluded.clone_url, web_url = excluded.web_url,
  private = excluded.private, archived = excluded.archived, fork = excluded.fork, admin = excluded.admin,
  bytes = excluded.bytes, pushed_at = excluded.pushed_at, seen_at = excluded.seen_at, gone_at = null
