-- due.sql($1 now, $2 until when nobody else gets them, $3 how many, $4 places and $5 teams to pass over): repos whose look is due, with
-- what is known of them. Where a wish waits, serving it is the look, also where that failed and is tried again.
with chosen as (
  select id from repo
  where (look_at is null or look_at <= $1 or looked_at > $1 + interval '1 hour')  -- the clock was ahead
    and archived_at is null and paused_at is null
    and wanted_at is not distinct from synced_at
    and team_id <> all ($5::uuid[])
    and not exists (select from unnest($4::text[]) as place where starts_with(url, place))
  order by look_at nulls first limit $3
  for update skip locked
), claimed as (
  update repo set look_at = $2, looked_at = least(looked_at, $1) from chosen where repo.id = chosen.id returning repo.*
)
select
  claimed.*, latest.refs_digest as digest, latest.object_format as format,
  claimed.connection_id is not null
    or exists (select from credential where credential.repo_id = claimed.id) as has_secret,
  asked.holder, (
    select max(until) from host_hold
    where host_hold.holder = asked.holder and starts_with(claimed.url, place)
      and until > $1 and until <= $1 + interval '1 day'  -- the clock was ahead
  ) as held_until
from claimed
left join lateral (
  select refs_digest, object_format from snapshot where repo_id = claimed.id order by number desc limit 1
) latest on true
cross join lateral (select holder(claimed.id, claimed.connection_id) as holder) asked
