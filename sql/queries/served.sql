-- served.sql($1 team name, $2 now): how a team serves its repositories, if it shows that to everybody; no row: it does not, or there is no such team.
with shown as (
  select id, name, status_page from team where name = $1 and status_page is not null
),
kept as materialized (
  select
    repo.protected_as_of, repo_state(repo, $2) as state, repo.damaged_at,
    exists (select from snapshot where snapshot.repo_id = repo.id and snapshot.dropped_at is null) as saved
  from repo join shown on shown.id = repo.team_id
)
select
  shown.id, shown.name, shown.status_page,
  count(state) filter (where saved) as total,
  count(state) filter (where not saved) as unsaved,
  count(state) filter (where saved and state in ('protected', 'behind')) as recent,
  count(state) filter (where saved and damaged_at is not null) as damaged,
  min(protected_as_of) filter (where saved and state in ('protected', 'behind')) as recent_as_of,
  min(protected_as_of) filter (where saved) as oldest_as_of
from shown left join kept on true
group by shown.id, shown.name, shown.status_page
