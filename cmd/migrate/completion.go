package main

import "github.com/spf13/cobra"

const completionLong = `Prints a script that completes commands, flags, workloads and migration IDs in
a shell.`

const completionExample = `  source <(migrate completion bash)
  migrate completion bash > /etc/bash_completion.d/migrate
  migrate completion zsh > "${fpath[1]}/_migrate"
  migrate completion fish > ~/.config/fish/completions/migrate.fish`

func newCompletionCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:       "completion bash|zsh|fish|powershell",
		Short:     "Print a shell completion script",
		Long:      completionLong,
		Example:   completionExample,
		Args:      exactly("SHELL"),
		ValidArgs: []string{"bash", "zsh", "fish", "powershell"},
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(a.stdout, true)
			case "zsh":
				return root.GenZshCompletion(a.stdout)
			case "fish":
				return root.GenFishCompletion(a.stdout, true)
			case "powershell":
				return root.GenPowerShellCompletionWithDesc(a.stdout)
			}
			return usagef("shell %.40q: want bash, zsh, fish or powershell", args[0])
		},
	}
}
