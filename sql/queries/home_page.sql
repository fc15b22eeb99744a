-- home_page.sql($1 team_id, $2 pattern or null, $3 state or null, $4 ids or null, $5 limit, $6 offset, $7 name or null,
-- after which, $8 now or null), the order and how a name matches put in: some repos of a team with what is kept of each. `matches` is how
-- many there are in all.
-- A repo whose connection's token is refused has failed for that, also before any run met it.
with chosen as (
  select repo.*, repo_state(repo, $8) as state, is_outside_rpo(repo, $8) as outside_rpo, count(*) over () as matches, row_number() over (order by {order}, repo.name) as place
  from repo
  where repo.team_id = $1
    and ($2::text is null or repo.name {match} $2)
    and ($3::text is null or repo_state(repo, $8) = $3)
    and ($4::uuid[] is null or repo.id = any ($4))
    and ($7::text is null or repo.name > $7)
  order by place
  limit $5 offset $6
)
select
  chosen.*, latest.number as snapshots, coalesce((select sum(dropped) from epoch where repo_id = chosen.id), 0)::int as dropped,
  coalesce((
    select max(number) from snapshot where repo_id = chosen.id and number < latest.number and dropped_at is null
  ), 0) as kept_before, latest.taken_at as saved_at,
  (select taken_at from snapshot where repo_id = chosen.id order by number limit 1) as first_at, coalesce(latest.refs_count, 0) as refs,
  (select coalesce(sum(bytes), 0)::bigint from part where part.repo_id = chosen.id and part.replaced_at is null) as bytes,
  proof.finished_at as proved_at, cardinality(proof.problems) as problems,
  (select count(*) from job where job.repo_id = chosen.id and job.kind = 'sync' and job.state = 'running') > 0 as at_work,
  (select why from connection where id = chosen.connection_id and chosen.refused_at is not null) as refused
from chosen
left join lateral (
  select number, taken_at, refs_count from snapshot where repo_id = chosen.id order by number desc limit 1
) latest on true
left join lateral (
  select finished_at, problems from drill where repo_id = chosen.id order by finished_at desc limit 1
) proof on true
order by place
