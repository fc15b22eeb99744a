-- 066_let_in.sql: one-time links that an owner makes for a member who forgot their password.

-- Who made the link, and of which team they were an owner; null: whoever runs Everref did. Such a link works as long as
-- `may_let_in` says so, also when it is used.
alter table sign_in_link
  add column made_by uuid references person on delete cascade,
  add column team_id uuid references team on delete cascade,
  add check ((made_by is null) = (team_id is null));

-- Whether an owner may let somebody in as this person: nothing must be to be had by that which the owner has not already.
-- The account was made by an invitation of this team, and of every team in which the person is the owner is an owner too,
-- but for the person's own, in which nobody else is and which holds nothing.
create function may_let_in(whom uuid, of_team uuid, owner uuid) returns boolean language sql stable as $$
  select whom <> owner
    and exists (select from person where id = whom and invited_to = of_team)
    and exists (select from member where team_id = of_team and person_id = whom)
    and exists (select from member where team_id = of_team and person_id = owner and role = 'owner')
    and not exists (
      select from member join team on team.id = member.team_id
      where member.person_id = whom
        and not exists (
          select from member mine where mine.team_id = team.id and mine.person_id = owner and mine.role = 'owner'
        )
        and not (
          team.person_id is not distinct from whom
          and not exists (select from member other where other.team_id = team.id and other.person_id <> whom)
          and not exists (select from repo where repo.team_id = team.id)
          and not exists (select from connection where connection.team_id = team.id)
          and not exists (select from api_token where api_token.team_id = team.id and revoked_at is null)
          and not exists (select from ssh_key where ssh_key.team_id = team.id)
        )
    )
$$;
